"""The wire as msgspec Structs, named like OpenAI's types. No behaviour."""
