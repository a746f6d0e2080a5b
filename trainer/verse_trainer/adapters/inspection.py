"""How much an adapter changes each layer. The tensors are read for this."""

from pathlib import Path

from verse.model_spelling import AdapterPart
from verse_trainer.adapters.factors import delta_norms, read_adapter
from verse_trainer.adapters.facts import ModuleNorm
from verse_trainer.adapters.places import choose, find
from verse_trainer.errors import ConversionError


def module_norms(root: Path, part: AdapterPart) -> tuple[list[ModuleNorm], list[str]]:
    """Every module with the norm of its update, and what is to be warned of.

    A folder without published weights is looked into at its newest checkpoint. Weights that cannot
    be used are a warning: `show` is what one turns to when something is broken.

    Raises:
        AdapterError: there is no such adapter or checkpoint.
    """
    if part.checkpoint is None and find(root, part.name).published is None:
        part = AdapterPart(part.name, "last")
    chosen = choose(root, part)
    try:
        adapter = read_adapter(chosen.weights, chosen.folder.config)
    except ConversionError as error:
        return [], [str(error)]
    norms = [
        ModuleNorm(
            module=module,
            in_dims=adapter.a(factors).shape[0],
            out_dims=adapter.b(factors).shape[1],
            rank=factors.rank,
            delta_norm=norm,
        )
        for (module, factors), norm in zip(
            adapter.plan.modules.items(), delta_norms(adapter).values(), strict=True
        )
    ]
    is_zero = not adapter.plan.uses_dora and all(norm.delta_norm == 0 for norm in norms)
    return norms, ["the update is zero: it changes nothing."] if is_zero else []
