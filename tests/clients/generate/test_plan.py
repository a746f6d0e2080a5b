"""The plan is a pure matrix: complete, without repetition, and the same every time."""

from hypothesis import given
from hypothesis import strategies as st

from verse.records import Candidate, Sampling
from verse_clients.generate.plan import Cell, Source, key_of, make_plan, missing, unexpected

NAMES = st.text(alphabet="山水风雨abc{}", min_size=1, max_size=4)
THEMES = st.lists(NAMES, min_size=1, max_size=4, unique=True)
SOURCES = st.lists(
    st.builds(
        Source,
        st.just("x"),
        st.none() | NAMES,
        st.none() | st.integers(1, 900) | st.sampled_from(["best", "last"]),
    ),
    min_size=1,
    max_size=11,
    unique=True,
)
VARIANTS = st.lists(
    st.none() | NAMES.map(lambda name: name + "{theme}"), min_size=1, max_size=3, unique=True
)


@st.composite
def plans(draw: st.DrawFn) -> list[Cell]:
    return make_plan(
        draw(THEMES),
        draw(SOURCES),
        draw(VARIANTS),
        num_samples=draw(st.integers(1, 3)),
        sampling=draw(st.sampled_from([Sampling(), Sampling(temperature=0.7, max_tokens=64)])),
        seed=draw(st.integers(0, 2**40)),
    )


def written(cell: Cell) -> Candidate:
    return Candidate(
        theme=cell.theme,
        text="诗",
        adapter=cell.source.adapter,
        checkpoint=cell.source.checkpoint,
        variant=cell.variant,
        sample=cell.sample,
        seed=cell.seed,
        sampling=cell.sampling,
    )


@given(THEMES, SOURCES, VARIANTS, st.integers(1, 3))
def test_every_combination_comes_once(
    themes: list[str], sources: list[Source], variants: list[str | None], num_samples: int
) -> None:
    plan = make_plan(
        themes, sources, variants, num_samples=num_samples, sampling=Sampling(), seed=0
    )
    wanted = {
        (theme, source, variant, sample)
        for theme in themes
        for source in sources
        for variant in variants
        for sample in range(num_samples)
    }
    assert {(c.theme, c.source, c.variant, c.sample) for c in plan} == wanted
    assert len({cell.key for cell in plan}) == len(plan) == len(wanted)
    assert all(0 <= cell.seed < 2**31 for cell in plan)


@given(plans(), st.data())
def test_what_is_written_is_not_missing_and_the_rest_is(
    plan: list[Cell], data: st.DataObject
) -> None:
    done = data.draw(st.sets(st.sampled_from(range(len(plan)))))
    poems = [written(plan[number]) for number in done]
    left = missing(plan, poems)
    assert left == [cell for number, cell in enumerate(plan) if number not in done]
    assert unexpected(plan, poems) == []


@given(plans())
def test_a_record_has_the_place_of_the_cell_it_was_written_for(plan: list[Cell]) -> None:
    assert [key_of(written(cell)) for cell in plan] == [cell.key for cell in plan]


@given(THEMES, SOURCES, VARIANTS, st.integers(0, 9))
def test_a_larger_plan_asks_its_smaller_part_the_same(
    themes: list[str], sources: list[Source], variants: list[str | None], seed: int
) -> None:
    small = make_plan(
        themes[:1], sources[:1], variants[:1], num_samples=1, sampling=Sampling(), seed=seed
    )
    large = make_plan(themes, sources, variants, num_samples=3, sampling=Sampling(), seed=seed)
    assert {cell.key for cell in small} <= {cell.key for cell in large}


@given(THEMES, SOURCES, VARIANTS, st.integers(1, 3), st.integers(0, 9))
def test_common_seeds_are_the_same_for_all_sources_and_differ_in_all_else(
    themes: list[str], sources: list[Source], variants: list[str | None], samples: int, seed: int
) -> None:
    plan = make_plan(
        themes, sources, variants, num_samples=samples, sampling=Sampling(), seed=seed,
        common_seeds=True,
    )  # fmt: skip
    seeds = {(cell.theme, cell.variant, cell.sample): cell.seed for cell in plan}
    assert [seeds[cell.theme, cell.variant, cell.sample] for cell in plan] == [
        cell.seed for cell in plan
    ]
    assert len(set(seeds.values())) == len(seeds) == len(plan) / len(sources)


def test_another_seed_or_sampling_is_another_plan() -> None:
    source = [Source("hushi", "hushi")]

    def plan(seed: int, sampling: Sampling) -> list[Cell]:
        return make_plan(["河"], source, [None], num_samples=1, sampling=sampling, seed=seed)

    poem = written(plan(0, Sampling())[0])
    assert unexpected(plan(0, Sampling()), [poem]) == []
    assert unexpected(plan(1, Sampling()), [poem]) == [poem]
    assert unexpected(plan(0, Sampling(temperature=0.5)), [poem]) == [poem]


def test_a_run_that_stops_early_has_touched_every_theme_by_a_few_adapters() -> None:
    sources = [Source(f"a{n}", f"a{n}") for n in range(20)]
    plan = make_plan(["风", "雨"], sources, [None], num_samples=2, sampling=Sampling(), seed=0)
    first = plan[:16]
    assert {cell.theme for cell in first} == {"风", "雨"}
    assert len({cell.source for cell in first}) == 8
    assert {cell.sample for cell in first} == {0}


def test_the_theme_stands_where_the_variant_has_its_place() -> None:
    (cell,) = make_plan(
        ["河"], [Source("base")], ["写{theme}和{theme}"], num_samples=1, sampling=Sampling(), seed=0
    )
    assert [(m.role, m.content) for m in cell.messages] == [("user", "写河和河")]
    assert [m.content for m in cell._replace(variant=None).messages] == ["河"]
