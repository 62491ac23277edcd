"""How a chat becomes tokens: what a model reads, what of its turn is the answer, and which token ends it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

from transformers.utils.chat_template_utils import encode_marked_chat, mark_control_tokens

from visage_mlflow.language.chat_template import ANSWERED, ASKED, NOTHING, ChatTemplate, Turn, messages
from visage_mlflow.language.thinking import closing, inside, is_sign, parted
from visage_mlflow.text.errors import Mistake

KINDS = ("plain", "as_given")
"""What special tokens may be in texts."""

_BEGIN_MARK, _, _LONE_MARK = mark_control_tokens("|", re.compile(r"\|"))
"""The signs around a special token that is meant as text; at one alone, transformers encodes what stands before and
after it apart."""
_MARKED = re.compile(f"{_BEGIN_MARK}(.)([^{_LONE_MARK}]*){_LONE_MARK}", re.S)


class Answered(NamedTuple):
    """A chat with its answer as tokens.

    Attributes:
        ids: All of them, up to the end of the turn.
        n_prompt: How many of them the model is given when it is asked.
        n_given: How many stand before the answer: those, and the thinking and signs that come before an answer.
    """

    ids: list[int]
    n_prompt: int
    n_given: int


@dataclass(frozen=True, eq=False)
class ChatFormat:
    """How the chats of one model become tokens.

    Attributes:
        tokenizer: With a chat template.
        system_prompt: Put before every chat; None leaves that to the template.
        arguments: Given to the template besides the chat, such as ``{"enable_thinking": False}``.
        special_tokens: What the tokenizer's special tokens are inside of prompts and answers: "plain" text, or
            "as_given", the tokens themselves.
        window: The most tokens that the model can read, with those that it writes; None where there is no limit.
        rows: How many tokens the model's embedding has rows for; None where that is not known.
    """

    tokenizer: Any
    system_prompt: str | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    special_tokens: str = "plain"
    window: int | None = None
    rows: int | None = None

    def __post_init__(self) -> None:
        if self.special_tokens not in KINDS:
            raise Mistake(f"`special_tokens` must be {' or '.join(KINDS)}, got {self.special_tokens!r}. Choose one.")
        _ = self.template

    @cached_property
    def template(self) -> ChatTemplate:
        """The tokenizer's chat template."""
        return ChatTemplate(self.tokenizer, self.system_prompt, self.arguments)

    @property
    def turn(self) -> Turn:
        """What the template writes around an answer."""
        return self.template.turn

    @property
    def ends(self) -> list[int]:
        """The tokens by which the template and the tokenizer end the assistant's turn."""
        return self.template.ends

    @property
    def takes(self) -> frozenset[str]:
        """The arguments that the template takes."""
        return self.template.takes

    def check(self, uri: str) -> None:
        """Raise Mistake where the template cannot ask, or be scored, as these settings want it."""
        self.template.check(uri)
        self.answered(ASKED, ANSWERED)

    def prompt(self, text: str) -> list[int]:
        """The token ids of the chat that asks `text`, up to where the assistant's turn begins."""
        return self._encoded(self.rendered(self._asked(text)))

    def answered(self, text: str, answer: str) -> Answered:
        """The token ids of a chat with its answer, up to the end of the turn.

        What the model reads when it is asked is encoded apart from what follows, as in decoding; so is what the
        template puts before an answer, where that is more than white space, and the answer's own thinking.
        """
        turn, asked = self.turn, self._asked(text)
        thinking, said = self._own_thinking(answer)
        said = self._marked(turn.trimmed(said))
        prompt = self.rendered(asked)
        between = self._thought(asked, prompt, thinking, said) if thinking else turn.before
        given = self._following(prompt, between) if between.strip() else []
        space = "" if given else between
        rest = self._following(between if given else prompt, space + said + turn.after)
        ids = self._encoded(prompt)
        return Answered([*ids, *given, *rest], len(ids), len(ids) + len(given))

    def parted(self, text: str) -> tuple[str, str | None]:
        """What a model thought and what it answered then, of all that it wrote; None where no answer came.

        Signs that the template puts before an answer belong to the former.
        """
        thinking, answer = parted(text)
        before = self.turn.before.strip()
        if answer is None or not before or not answer.lstrip().startswith(before):
            return thinking, answer
        answer = answer.lstrip().removeprefix(before)
        return text[: len(text) - len(answer)], answer

    def said(self, thinking: str, answer: str) -> tuple[list[int], list[int]]:
        """The token ids of what a model thought, and of what it answered then, as they follow a prompt."""
        thought = self._with_signs(self._goes_on(thinking)) if thinking else ""
        begun = self._begun
        return self._following(begun, thought), self._following(thought or begun, self._marked(answer))

    @cached_property
    def _begun(self) -> str:
        """Some chat up to where the assistant's turn begins."""
        return self.rendered(self._asked(ASKED))

    def holds_special_tokens(self, *texts: str) -> bool:
        """Whether one of the texts holds what the tokenizer has a special token for."""
        return any(self.template.control.search(text) for text in texts)

    def _asked(self, text: str) -> list[dict[str, str]]:
        """The chat that asks a text, marked."""
        return [
            {**message, "content": self._marked(message["content"])} for message in messages(text, self.system_prompt)
        ]

    def _own_thinking(self, answer: str) -> tuple[str, str]:
        """An answer's thinking, empty where it has none or may have none, and the answer after it."""
        opened = self.turn.opened
        is_begun = opened and closing(opened) in answer and opened not in answer
        thinking, said = parted(opened + answer if is_begun else answer)
        return "" if self.turn.is_closed else thinking, said or ""

    def _thought(self, asked: list[dict[str, str]], prompt: str, thinking: str, said: str) -> str:
        """A thinking as the template writes it before an answer; as it is, where the template writes none."""
        if not (inner := self._marked(inside(thinking))):
            return self._with_signs(self._goes_on(thinking))
        for answer in ({"content": said, "reasoning_content": inner, "thinking": inner}, {"content": thinking + said}):
            try:
                whole = self.rendered([*asked, {"role": "assistant", **answer}], begins_turn=False)
            except Exception:  # A template is a program, which raises what it likes.
                continue
            written = self._after(prompt, whole[: whole.rfind(said)]) if said else ""
            if inside(written) == inner and written != inner:
                return written
        return self._with_signs(self._goes_on(thinking))

    def _after(self, prompt: str, head: str) -> str:
        """What a chat up to its answer has after a prompt; empty where it begins otherwise."""
        if head.startswith(prompt):
            return head[len(prompt) :]
        opened, begun = self.turn.opened, prompt.rstrip()
        sign = begun.removesuffix(opened)
        if not opened or not head.startswith(sign) or not head[len(sign) :].lstrip().startswith(opened):
            return ""
        return head[len(sign) :].lstrip().removeprefix(opened).removeprefix(prompt[len(begun) :])

    def _goes_on(self, thinking: str) -> str:
        """A thinking without the sign that the prompt opens it with."""
        opened = self.turn.opened
        return thinking.lstrip().removeprefix(opened).lstrip() if opened else thinking

    def _marked(self, text: str) -> str:
        """A text in which special tokens are marked as text, as the settings want it."""
        marked: str = mark_control_tokens(
            text, NOTHING if self.special_tokens == "as_given" else self.template.control
        )
        return marked

    def _with_signs(self, thinking: str) -> str:
        """A thinking in which special tokens are marked as text, but for the signs that make it one."""
        pieces = [piece if is_sign(piece) else self._marked(piece) for piece in self._parts.split(thinking) if piece]
        return "".join(pieces)

    @cached_property
    def _parts(self) -> re.Pattern[str]:
        """As `_control`, with a group, by which to split."""
        return re.compile(f"({self.template.control.pattern})")

    def _following(self, before: str, text: str) -> list[int]:
        """The token ids of a text that follows another one.

        Where that ends in a special token, some tokenizers begin the text otherwise than in the midst of others.
        """
        *_, last = ["", *self.template.control.findall(before)]
        if last and before.endswith(last):
            ids = self._encoded(last + text)
            if ids[:1] == [self.tokenizer.convert_tokens_to_ids(last)]:
                return ids[1:]
        return self._encoded(_LONE_MARK + text)

    def _encoded(self, text: str) -> list[int]:
        """The token ids of a chat's text, of which marked special tokens are text.

        Raises:
            Mistake: The model has no embedding for one.
        """
        try:
            ids = list(encode_marked_chat(self.tokenizer, text))
        except ValueError:
            # The tokenizer makes a token of it also from plain text; not from two pieces.
            ids = list(encode_marked_chat(self.tokenizer, _MARKED.sub(rf"\1{_LONE_MARK}\2", text)))
        if self.rows is not None and (greatest := max(ids, default=0)) >= self.rows:
            token, n_tokens = self.tokenizer.convert_ids_to_tokens(greatest), len(self.tokenizer)
            raise Mistake(
                f"`model` has a tokenizer that writes {token!r} as token {greatest}, and an embedding of only "
                f"{self.rows} rows (`vocab_size` in its config.json). Give the tokenizer that belongs to it, or train "
                f"and save it after `model.resize_token_embeddings({n_tokens})`."
            )
        return ids

    def rendered(self, chat: list[dict[str, Any]], *, begins_turn: bool = True) -> str:
        """A chat as its template writes it; special tokens in its arguments are what they are in texts."""
        marked = self._marked_all(dict(self.arguments))
        return self.template.rendered(chat, begins_turn=begins_turn, arguments=marked)

    def _marked_all(self, value: Any) -> Any:
        """A value in which all texts are marked."""
        if isinstance(value, Mapping):
            return {name: self._marked_all(each) for name, each in value.items()}
        if isinstance(value, list):
            return [self._marked_all(each) for each in value]
        return self._marked(value) if isinstance(value, str) else value
