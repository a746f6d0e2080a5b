"""The nouns all parts of Verse share: prompts, poems, adapter folders, the base model."""
