"""What can go wrong in the trainer.

TrainerError            one sentence that says what to do; exit code 2
├── DataSetError        about the poems or rows; names file and line where there is one
├── ConfigError         about a key of the configuration
├── TrainingError       about a run: its folder, its memory, its loss
└── AdapterError        about an adapter's name or folder
    └── ConversionError about an adapter folder that is imported, exported or fused
"""

from verse import UserError


class TrainerError(UserError):
    """Root of the trainer's errors."""


class DataSetError(TrainerError):
    """The poems or rows cannot be used."""


class ConfigError(TrainerError):
    """The configuration means nothing, or nothing possible."""


class TrainingError(TrainerError):
    """The run cannot start or go on."""


class AdapterError(TrainerError):
    """There is no such adapter, or it is broken."""


class ConversionError(AdapterError):
    """An adapter folder cannot be converted."""
