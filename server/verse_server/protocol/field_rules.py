"""Fields that other servers obey and this one does not: the rule, and a reason for each field.

*What changes no answer is accepted; what would change it and cannot be obeyed here is a 400 that
names it.* So a field is accepted with every value if it means nothing here (`neutral` is None), or
with the values that mean what leaving it out means. Null always is such a value.

docs/serve.md shows these tables to users; a test holds the two together.
"""

import msgspec


class FieldRule(msgspec.Struct, frozen=True):
    """What becomes of one field."""

    name: str
    reason: str
    """Why it changes nothing, or what it would change."""
    neutral: tuple[object, ...] | None = None
    """The values accepted besides null; None accepts all that are of the field's type."""

    def accepts(self, value: object) -> bool:
        """Whether a value leaves the answer as it is."""
        if value is None or self.neutral is None:
            return True
        # `True == 1`, so types are compared too; a client may write 1.0 as 1.
        return any(
            value == neutral and isinstance(value, bool) == isinstance(neutral, bool)
            for neutral in self.neutral
        )


def _only(name: str, reason: str, *neutral: object) -> FieldRule:
    return FieldRule(name, reason, neutral)


RULES_OF_BOTH = (
    FieldRule("keep_alive", "every model stays loaded"),
    FieldRule("ttl", "every model stays loaded"),
    FieldRule("cache_prompt", "what prompts share is always computed once"),
    FieldRule("num_draft_tokens", "there is no draft model, and none would change an answer"),
    FieldRule("guided_decoding_backend", "one library enforces all grammars"),
    _only("best_of", "only one answer is written for each that is asked for", 1),
    _only("use_beam_search", "tokens are drawn one by one", False),
    _only("length_penalty", "it is for beam search", 1.0),
    _only("early_stopping", "it is for beam search", False),
    _only("skip_special_tokens", "control tokens are never part of a text", True),
    _only("spaces_between_special_tokens", "control tokens are never part of a text", True),
    _only("include_stop_str_in_output", "what stops an answer is never part of it", False),
    _only("truncate_prompt_tokens", "a prompt is read whole or refused"),
    _only("allowed_token_ids", "use logit_bias or a grammar"),
    _only("bad_words", "use logit_bias or a grammar", []),
    _only("logits_processors", "no code is taken from a request", []),
    _only("return_tokens_as_token_ids", "use return_token_ids", False),
    _only("priority", "use the header x-verse-priority", 0),
    _only("typical_p", "this sampler is not there", 1.0),
    _only("tfs_z", "this sampler is not there", 1.0),
    _only("mirostat", "this sampler is not there", 0),
    _only("dry_multiplier", "this sampler is not there", 0.0),
    _only("no_repeat_ngram_size", "use the penalties", 0),
    _only("guided_whitespace_pattern", "white space in JSON is always one blank"),
)
RULES_OF_CHAT = (
    FieldRule("safety_identifier", "it names a user to OpenAI; `user` names one here"),
    FieldRule("prompt_cache_key", "what prompts share is found without a key"),
    FieldRule("prompt_cache_options", "what prompts share is found without a key"),
    FieldRule("prompt_cache_retention", "what prompts share is kept while there is memory"),
    FieldRule("store", "nothing is stored"),
    FieldRule("service_tier", "there is one tier"),
    FieldRule("prediction", "a guess only ever makes an answer faster"),
    FieldRule("verbosity", "no model here knows it"),
    _only("functions", "use tools", []),
    _only("function_call", "use tool_choice", "none", "auto"),
    _only("audio", "the model writes text"),
    _only("modalities", "the model writes text", ["text"]),
    _only("moderation", "nothing is moderated"),
    _only("web_search_options", "nothing is searched"),
    _only("add_special_tokens", "the template says which tokens stand around the messages", False),
    _only("documents", "the templates take none", []),
    _only("chat_template", "the template comes from the model"),
    _only("mm_processor_kwargs", "the model reads text", {}),
    _only("echo", "use add_generation_prompt and continue_final_message", False),
    _only("include_reasoning", "what the model writes is the answer", True),
)
RULES_OF_COMPLETIONS = (_only("suffix", "the model only knows how to go on", ""),)
RULES_OF_MESSAGES = (
    FieldRule("name", "the templates show no names"),
    FieldRule("reasoning_content", "thoughts of earlier turns are not shown to the model"),
    FieldRule("reasoning", "thoughts of earlier turns are not shown to the model"),
    _only("refusal", "the template has no place for it"),
    _only("annotations", "the template has no place for them", []),
    _only("audio", "the model reads text"),
    _only("function_call", "use tool_calls"),
)
RULES_OF_RESPONSES = (
    FieldRule("safety_identifier", "it names a user to OpenAI; `user` names one here"),
    FieldRule("prompt_cache_key", "what prompts share is found without a key"),
    FieldRule("prompt_cache_options", "what prompts share is found without a key"),
    FieldRule("prompt_cache_retention", "what prompts share is kept while there is memory"),
    FieldRule("service_tier", "there is one tier"),
    FieldRule("max_tool_calls", "it counts calls of tools that OpenAI runs itself"),
    _only("background", "an answer is written while its client waits", False),
    _only("conversation", "use previous_response_id"),
    _only("context_management", "a conversation is read whole or refused"),
    _only("moderation", "nothing is moderated"),
    _only("prompt", "no prompts are stored; use instructions and input"),
    _only("truncation", "a conversation is read whole or refused", "disabled"),
)
RULES_OF_RESPONSE_TEXT = (FieldRule("verbosity", "no model here knows it"),)
RULES_OF_RESPONSE_REASONING = (
    FieldRule("summary", "thoughts are a part of the text"),
    FieldRule("generate_summary", "thoughts are a part of the text"),
)
RULES_OF_ITEMS = (
    FieldRule("phase", "the templates show none"),
    FieldRule("summary", "thoughts of earlier turns are not shown to the model"),
    FieldRule("encrypted_content", "thoughts of earlier turns are not shown to the model"),
)
RULES_OF_STREAM_OPTIONS = (_only("include_obfuscation", "chunks are sent as they are", False),)
RULES_OF_STRUCTURED_OUTPUTS = (
    FieldRule("disable_fallback", "there is nothing to fall back to"),
    FieldRule("disable_any_whitespace", "white space in JSON is always one blank"),
    _only("disable_additional_properties", "the schema says it", False),
    _only("whitespace_pattern", "white space in JSON is always one blank"),
    _only("structural_tag", "use a grammar"),
)
RULES_OF_TOKENIZE = (
    _only("chat_template", "the template comes from the model"),
    _only("mm_processor_kwargs", "the model reads text", {}),
    _only("tools", "the templates are given none", []),
)
