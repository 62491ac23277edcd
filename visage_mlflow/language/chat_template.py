"""What a chat template writes: around questions and answers, and after an answer's end.

Found by rendering probes. A template is a program, and may do anything.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import Any, NoReturn

from jinja2 import meta, nodes
from transformers.utils.chat_template_utils import _compile_jinja_template

from visage_mlflow.language.thinking import closing, holds_end, opened_by, without_thinking
from visage_mlflow.text.errors import Mistake, one_line

TODAY = datetime(2024, 7, 26)
"""What templates that ask for the date are told, so that a model reads the same tomorrow."""

ASKED, TOLD, THOUGHT = "Probe of a question", "Probe of a system prompt", "Probe of a thinking"
ANSWERED = "Probe of an answer: \"a\" < 'b' & c,\nand its end"
"""Texts by which it is found what a template makes of texts. The answer's holds what templates may escape or cut."""

OWN_VARIABLES = frozenset(
    "messages tools documents add_generation_prompt continue_final_message strftime_now raise_exception bos_token "
    "eos_token pad_token unk_token".split()
)
"""Names in templates that are no user's to set."""

LINES = "\n\n"
"""What stands between an empty thinking and an answer, where templates write none of both."""

NOTHING = re.compile("(?!)")


@dataclass(frozen=True)
class Turn:
    """What a template writes around an answer.

    Attributes:
        before: Between the generation prompt and the answer: white space, an empty thinking, the name of a channel.
        after: From the answer's last letter to the token that ends the turn, that included.
        opened: Thinking that the generation prompt has begun, and that the model goes on with; empty where none.
        is_closed: Whether the generation prompt holds a thinking that has ended, so that none may follow.
        trims: Which white space goes at each side of an answer: "", " ", a line feed, or both, which stand for all.
    """

    before: str
    after: str
    opened: str
    is_closed: bool
    trims: tuple[str, str]

    def trimmed(self, said: str) -> str:
        """An answer as the template writes it."""
        left, right = (None if len(spaces) > 1 else spaces for spaces in self.trims)
        said = said if left == "" else said.lstrip(left)
        return said if right == "" else said.rstrip(right)


def messages(prompt: str, system_prompt: str | None = None) -> list[dict[str, str]]:
    """The chat that asks `prompt`; without a system prompt, what stands before it is the template's choice."""
    system = [] if system_prompt is None else [{"role": "system", "content": system_prompt}]
    return [*system, {"role": "user", "content": prompt}]


@dataclass(frozen=True, eq=False)
class ChatTemplate:
    """The chat template of a tokenizer, with what it is given besides the chats.

    Attributes:
        tokenizer: With a chat template.
        system_prompt: Put before every chat; None leaves that to the template.
        arguments: Such as ``{"enable_thinking": False}``.
    """

    tokenizer: Any
    system_prompt: str | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.arguments, Mapping):
            raise Mistake(f"`template` must be a mapping of names to values, got {self.arguments!r}. Mend it.")
        if not isinstance(self.system_prompt, str | None):
            raise Mistake(f"`system_prompt` must be a text, got {self.system_prompt!r}. Mend it.")

    def rendered(
        self, chat: list[dict[str, Any]], *, begins_turn: bool = True, arguments: Mapping[str, Any] | None = None
    ) -> str:
        """A chat as the template writes it, `arguments` in place of its own."""
        given = self.arguments if arguments is None else arguments
        # Not `apply_chat_template`: it takes no function for an argument, and the date is one.
        text: str = _compile_jinja_template(self.tokenizer.get_chat_template()).render(
            messages=chat,
            tools=None,
            documents=None,
            add_generation_prompt=begins_turn,
            **{
                "strftime_now": TODAY.strftime,
                **self.tokenizer.special_tokens_map,
                **given,
            },
        )
        return text

    @cached_property
    def turn(self) -> Turn:
        """What the template writes around an answer; ValueError where what it writes is no chat that can be scored."""
        if self.system_prompt is None:
            return self._turn_of(messages(ASKED))
        if TOLD not in self.rendered(messages(ASKED, TOLD)):
            raise ValueError("leaves out the system prompt")
        try:
            return self._turn_of(messages(ASKED, self.system_prompt))
        except ValueError:  # Some write it only in chats that end in a question; what is around an answer is the same.
            return self._turn_of(messages(ASKED))

    def _turn_of(self, asked: list[dict[str, Any]]) -> Turn:
        """What the template writes around an answer to a chat."""
        prompt = self.rendered(asked)
        if ASKED not in prompt:
            raise ValueError("leaves out what the user says")
        head, tail = self._around(asked, ANSWERED)
        before, opened = self._before(prompt, head)
        self._check_thinking(asked, prompt, opened)
        unasked = self.rendered(asked, begins_turn=False)
        if before.strip() and prompt == unasked:
            raise ValueError("ignores `add_generation_prompt`, so that nothing tells the model to answer")
        spaced = {space: self._around(asked, f"{space}{ANSWERED}{space}") for space in " \n"}
        trims = (
            "".join(space for space, (left, _) in spaced.items() if left != head + space),
            "".join(space for space, (_, right) in spaced.items() if right != space + tail),
        )
        after = self._up_to_end(tail) or self._end_in_between(asked) or tail
        return Turn(before, after, opened, holds_end(prompt.removeprefix(unasked)), trims)

    def _check_thinking(self, asked: list[dict[str, Any]], prompt: str, opened: str) -> None:
        """Raise ValueError where a template writes thinking that could not be told from the answer."""
        answered = {"role": "assistant", "content": ANSWERED, "reasoning_content": THOUGHT, "thinking": THOUGHT}
        try:
            whole = self.rendered([*asked, answered], begins_turn=False)
        except Exception:  # It takes no such thing.
            return
        begun = prompt.rstrip().removesuffix(opened)
        written = whole[len(begun) : whole.rfind(ANSWERED) + len(ANSWERED)]
        if whole.startswith(begun) and THOUGHT in written and THOUGHT in (without_thinking(written) or THOUGHT):
            raise ValueError("writes thinking between signs that are not known here")

    def _around(self, asked: list[dict[str, Any]], answer: str) -> tuple[str, str]:
        """What the template writes before and after the probe of an answer."""
        whole = self.rendered([*asked, {"role": "assistant", "content": answer}], begins_turn=False)
        found = whole.count(ANSWERED)
        if found != 1:
            done = "writes more than once" if found else "leaves out or changes"
            raise ValueError(f"{done} what the assistant says")
        head, _, tail = whole.partition(ANSWERED)
        return head, tail

    @property
    def ends(self) -> list[int]:
        """The tokens by which the template and the tokenizer end the assistant's turn."""
        written = [self.turn.after]
        if not self.turn.before.strip():  # Else a turn may have several parts, and the answer is only the last.
            written.append(self._end_in_between(messages(ASKED, self.system_prompt)))
        last = [token for text in written for token in self.control.findall(text)[-1:]]
        return sorted({*self.tokenizer.convert_tokens_to_ids(last), self.tokenizer.eos_token_id} - {None})

    @cached_property
    def takes(self) -> frozenset[str]:
        """The arguments that the template takes: names that it never gives a value itself, or whose value shows."""
        template = self.tokenizer.get_chat_template()
        environment = _compile_jinja_template(template).environment
        tree = environment.parse(template)
        program: str = environment.compile(template, raw=True)
        own = {name.name for name in tree.find_all(nodes.Name) if name.ctx != "load"}
        sure = meta.find_undeclared_variables(tree) - own - OWN_VARIABLES
        looked_up = set(re.findall(r"\bresolve\('(\w+)'\)", program)) - OWN_VARIABLES - set(environment.globals)
        return frozenset(sure | {name for name in looked_up - sure if self._shows_value_of(name)})

    def _shows_value_of(self, name: str) -> bool:
        """Whether the template writes other chats with an argument than without."""
        without = self._around_texts({})
        return any(self._around_texts({name: value}) != without for value in ("Probe of an argument", True, False))

    def check(self, uri: str) -> None:
        """Raise Mistake where the template cannot ask, or be scored, as these settings want it."""
        template = self.tokenizer.chat_template
        if isinstance(template, dict) and "default" not in template:
            raise Mistake(
                f"`model` is {uri!r}, whose tokenizer has the chat templates {', '.join(sorted(template))}, none of "
                "them named default. Save it with the one that is meant as its `chat_template`."
            )
        with _broken_template_is_told(uri):
            known = self.takes
        if unknown := sorted(set(self.arguments) - known):
            raise Mistake(
                f"`template` gives {unknown[0]!r}, which the chat template of {uri!r} does not use: an argument must "
                f"be one of its own. It takes {', '.join(sorted(known)) or 'none'}."
            )
        try:
            _ = ChatTemplate(self.tokenizer, None, self.arguments).ends
        except Exception as error:  # A template is a program, which raises what it likes.
            self._check_arguments(uri, error)
            self._refuse(uri, one_line(error).rstrip("."))
        try:
            _ = self.ends
        except Exception as error:
            raise Mistake(
                f"`system_prompt` is given, and the chat template of {uri!r} takes none: it says "
                f"{one_line(error).rstrip('.')!r}. Leave `system_prompt` out, or put the text before the prompts."
            ) from error

    def _check_arguments(self, uri: str, error: Exception) -> None:
        """Raise Mistake where a template, which raised an error, takes a plain chat without these arguments."""
        try:
            _ = ChatTemplate(self.tokenizer).ends
        except Exception:  # Then it is not for the arguments.
            return
        if self.arguments:
            raise Mistake(
                f"`template` is {dict(self.arguments)!r}, with which the chat template of {uri!r} cannot be used: it "
                f"{one_line(error).rstrip('.')}. Mend the value, or leave it out."
            ) from error

    def _refuse(self, uri: str, reason: str) -> NoReturn:
        """Raise Mistake for a template that cannot write a plain chat."""
        parts = [{"role": "user", "content": [{"type": "text", "text": ASKED}]}]
        if self._shows(parts) and not self._shows(messages(ASKED)):
            reason, cure = "takes lists of content parts for texts", "takes `message['content']` as text"
        else:
            cure = "writes each message's role and content, and then `add_generation_prompt`'s opening"
        raise Mistake(
            f"`model` is {uri!r}, whose chat template cannot be used: it {reason}. Give the tokenizer a "
            f"`chat_template` that {cure}, and save it."
        )

    def _shows(self, chat: list[dict[str, Any]]) -> bool:
        """Whether what the user says is in a chat as its template writes it."""
        try:
            return ASKED in self.rendered(chat)
        except Exception:  # A template is a program, which raises what it likes.
            return False

    @cached_property
    def control(self) -> re.Pattern[str]:
        """What matches a special token, or one that the template writes, be it put together from parts."""
        tokens = set(self.tokenizer._get_control_tokens(self.tokenizer.get_chat_template()))
        written = self._around_texts(self.arguments)
        tokens |= {token for token in self.tokenizer.get_added_vocab() if token.strip() and token in written}
        longest_first = sorted(tokens, key=len, reverse=True)
        return re.compile("|".join(map(re.escape, longest_first)) or NOTHING.pattern)

    def _around_texts(self, arguments: Mapping[str, Any]) -> str:
        """All that the template writes around texts; empty where it cannot write a chat."""
        asked, answered = {"role": "user", "content": ""}, {"role": "assistant", "content": ""}
        try:
            begun = self.rendered([asked], arguments=arguments)
            return begun + self.rendered([asked, answered], begins_turn=False, arguments=arguments)
        except Exception:  # A template is a program, which raises what it likes.
            return ""

    def _before(self, prompt: str, head: str) -> tuple[str, str]:
        """What the template writes between a generation prompt and an answer, and the thinking that the prompt opens.

        Args:
            prompt: A chat with the generation prompt.
            head: The same chat with an answer, up to that.
        """
        opened = opened_by(prompt)
        if head.startswith(prompt):
            return head[len(prompt) :], opened
        begun = prompt.rstrip().removesuffix(opened).rstrip() if opened else prompt
        if opened and head.startswith(begun) and not (without_thinking(head[len(begun) :]) or "").strip():
            # Answers are written without the thinking that the prompt has opened, or with an empty one.
            _, _, space = head[len(begun) :].rpartition(closing(opened))
            return f"\n{closing(opened)}{space if space != head[len(begun) :] else LINES}", opened
        rest = prompt.removeprefix(head.rstrip())
        if rest != prompt and not (without_thinking(rest) or "").strip():
            return "", ""  # The prompt closes the thinking, of which answers are written without.
        raise ValueError("begins an answer otherwise than its generation prompt")

    def _up_to_end(self, tail: str) -> str:
        """What follows an answer, up to the first special token, that included; empty where there is none."""
        end = self.control.search(tail)
        return tail[: end.end()] if end else ""

    def _end_in_between(self, asked: list[dict[str, Any]]) -> str:
        """What ends an answer that another question follows, for templates that leave the last turn open."""
        chat = [*asked, {"role": "assistant", "content": ANSWERED}, asked[-1]]
        try:
            _, _, tail = self.rendered(chat, begins_turn=False).partition(ANSWERED)
        except Exception:  # Some take one question only, which is all that is asked.
            return ""
        return self._up_to_end(tail)


@contextmanager
def _broken_template_is_told(uri: str) -> Iterator[None]:
    """Inside, a template that is no Jinja raises Mistake."""
    try:
        yield
    except Exception as error:
        raise Mistake(
            f"`model` is {uri!r}, whose chat template is no valid Jinja: {one_line(error).rstrip('.')}. Mend "
            "`chat_template` in its folder."
        ) from error
