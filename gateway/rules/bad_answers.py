"""Whether an answer of a model that was chosen for a step is one that the model asked for would not give.

Pure. A false alarm costs a second call; a missed one costs an agent a step. So texts count as refusals only
when they are short and begin with the plain words for it: that something was not found, does not exist or is
not allowed in the user's world is an answer. A call counts as a repetition only where nothing suggests that
the tool could say something else now.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from gateway.domain import Answer, Item, Role, Step, ToolCall
from gateway.rules.lineage import canonical_json
from gateway.rules.tool_names import acts_on_a_page, is_idle, words_of
from gateway.rules.tool_results import read_result

MAX_REFUSAL_CHARS = 700
"""A longer text says more than that it will not."""
_FEW_TOKENS = 16
"""Limits up to this are those of probes, which read nothing."""
_LOOKED_AT = 240
_REFUSED = ("refusal", "content_filter")
_CUT_OFF = ("length", "max_tokens", "max_output_tokens", "model_context_window_exceeded")
_BRING = ("mcp", "tool_search")
"""How the names of tools begin that bring others along, which no request defines."""


def bad_answer(
    answer: Answer, step: Step, invalid: Callable[[ToolCall], str | None], *, clamped: bool = False
) -> str | None:
    """Why the answer is bad, as a short clause; None if it is not.

    `invalid` tells why a call's arguments do not fit the tool's schema. `clamped` means that the gateway set
    a smaller output limit than the caller's, so that an answer cut off there is no fault of the model.
    """
    if answer.background:
        return None
    if answer.finish_reason in _REFUSED:
        return f"it was ended as {answer.finish_reason}"
    if not answer.calls:
        if _is_empty(answer, step):
            return "it is empty"
        if len(answer.texts) == 1 and is_refusal(answer.texts[0]):
            return "it refuses"
    elif (reason := _bad_call(answer, step, invalid)) is not None:
        return reason
    if answer.finish_reason in _CUT_OFF and not clamped and not _reached_its_limit(answer, step):
        return "it was cut off before the caller's own limit"
    return None


def _is_empty(answer: Answer, step: Step) -> bool:
    """No text, and nothing else that an answer may consist of."""
    if any(text and not text.isspace() for text in answer.texts):
        return False
    if answer.hosted or answer.finish_reason == "pause_turn":
        return False
    modalities = step.body.get("modalities")
    if type(modalities) is list and ("audio" in modalities or "image" in modalities):
        return False
    return step.output_limit is None or step.output_limit > _FEW_TOKENS


def _reached_its_limit(answer: Answer, step: Step) -> bool:
    """Whether what was said may have used up the caller's limit: a token has a byte at least."""
    if step.output_limit is None:
        return False
    said = sum([len(text.encode("utf-8", "replace")) for text in answer.texts]) + len(
        answer.reasoning.encode("utf-8", "replace")
    )
    said += sum([len(call.name) + len(call.arguments.encode("utf-8", "replace")) for call in answer.calls])
    return said >= step.output_limit * max(1, len(answer.texts))


# -- calls --------------------------------------------------------------------------------------------


def _bad_call(answer: Answer, step: Step, invalid: Callable[[ToolCall], str | None]) -> str | None:
    offered = {tool.name for tool in step.tools}
    brings = any(name.startswith(_BRING) for name in offered)
    for call in answer.calls:
        if call.name not in offered and not brings and not _was_called(call.name, step.items):
            return f"it calls {call.name[:64]!r}, which is not offered"
        reason = invalid(call)
        if reason is not None:
            return f"its arguments for {call.name[:64]!r} do not fit: {reason}"
    return "it repeats the call before, which was answered" if _repeats(answer.calls, step) else None


def _was_called(name: str, items: tuple[Item, ...]) -> bool:
    """Whether the client has shown a call of that name, and so has such a tool, however it came by it."""
    return any(call.name == name for item in items for call in item.calls)


def _repeats(calls: tuple[ToolCall, ...], step: Step) -> bool:
    """Whether these are the calls of the assistant's last turn once more, though their results are there."""
    results: list[Item] = []
    said = None
    for item in reversed(step.items):
        if item.aside:
            continue
        if item.role is Role.ASSISTANT:
            said = item
            break
        if item.role is not Role.TOOL:
            # Somebody asked for something since.
            return False
        results.append(item)
    if said is None or len(said.calls) != len(calls) or len(results) < len(calls):
        return False
    if sorted(map(_identity, said.calls)) != sorted(map(_identity, calls)):
        return False
    if any(_says_more_each_time(call.name) for call in calls) or any(map(_is_unsettled, results)):
        return False
    return len(calls) > 1 or not _has_changed(calls[0], results[0], step.items)


def _identity(call: ToolCall) -> tuple[str, bytes]:
    return call.name, canonical_json(call.arguments)


def _says_more_each_time(name: str) -> bool:
    """Whether a tool is called again to get on, or to see whether something has changed."""
    words = [word.lower() for word in _WORD.findall(name[:128])]
    return acts_on_a_page(name) or is_idle(name) or not _GETS_ON.isdisjoint(words)


def _is_unsettled(result: Item) -> bool:
    """Whether a result invites to try again: an error, or something that is not ready yet."""
    if result.failed or not result.texts:
        return True
    return read_result(result.texts[-1].text).status != "ok"


def _has_changed(call: ToolCall, result: Item, items: tuple[Item, ...]) -> bool:
    """Whether the same call was answered otherwise before."""
    wanted = _identity(call)
    ids = {c.id for item in items for c in item.calls if c.name == call.name and _identity(c) == wanted}
    now = [text.text for text in result.texts]
    return any(
        item.role is Role.TOOL and item.call_id in ids and [text.text for text in item.texts] != now
        for item in items
    )


_GETS_ON = words_of(
    """next more random roll sample retry continue undo redo pop advance run execute exec bash shell
    test tests time now receive poll polling status progress check watch await refresh screenshot snapshot"""
)
_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")


# -- refusals -----------------------------------------------------------------------------------------


def is_refusal(text: str) -> bool:
    """Whether a text is nothing but a refusal to do what was asked."""
    if len(text) > MAX_REFUSAL_CHARS:
        return False
    text = text.strip().replace("\u2019", "'")[:_LOOKED_AT].lower()
    if not text or text.startswith(_NO_SPEECH):
        return False
    return _ENGLISH.search(text) is not None or _OTHERS.search(text) is not None


_NO_SPEECH = ("{", "[", "<", "```", ">", '"', "dear ", "subject:", "to:", "hi team", "def ", "#")
"""How data, code, quotations and drafts of letters begin."""
_ENGLISH = re.compile(
    r"(?:^|[.!?\n]\s*)"
    # What may stand in front: a preface, an apology.
    r"(?:(?:oh|thanks?|thank you|unfortunately|regrettably|however|i understand|i appreciate)\b"
    r"[^.!?\n]{0,80}?[,:]? (?:but )?)?"
    r"(?:(?:i'?m |i am )?(?:really |very |so )?(?:sorry|afraid|apologi[sz]e|i apologi[sz]e)"
    r"[^.!?\n]{0,30}?[,.:;]? ?(?:but |that )?)?"
    r"(?:as an ai[^.!?\n]{0,30}?,? )?"
    r"(?:"
    r"i (?:just |simply |really )?(?:can(?:'t|not| not)|won't|will not|am not able to|am unable to"
    r"|am not going to|must decline|have to decline|do not feel comfortable|don't feel comfortable)"
    r"(?: be able to| to)?(?: \w+ly)?"
    r" (?:help|assist|comply|do (?:that|this)\b|fulfil|accommodate|engage"
    r"|support (?:that|this|your)|answer (?:that|this|your)|discuss (?:that|this|such)"
    r"|continue with (?:this|that)|participate"
    r"|(?:provid|giv|offer|shar|generat|creat|produc|writ)(?:e|ing)? (?:\w+ )?(?:that|this|such"
    r"|assistance|help|advice|information (?:on|about|regarding)|instructions|content)"
    r"|(?:complete|process|perform|carry out|execute|respond to|act on) (?:that|this|your) "
    r"(?:request|task|query)"
    r"|in good conscience|browse the (?:web|internet)|access (?:the internet|external|real-time|websites))"
    r"|i'm (?:unable to|not able to|not going to|not comfortable)(?: \w+ly)?"
    r" (?:help|assist|comply|do (?:that|this)\b|fulfil|accommodate|engage|provid|continu|discuss"
    r"|answer(?:ing)? (?:that|this|your)|doing|creating|generating|sharing|writing"
    r"|(?:complete|process|perform|carry out|execute) (?:that|this|your) (?:request|task|query)"
    r"|browse the (?:web|internet)|access (?:the internet|external|real-time|websites))"
    r"|i (?:must|have to|need to|will have to|'ll have to) (?:respectfully |politely )?(?:decline|refuse)"
    r"|i (?:respectfully |politely )?(?:decline|refuse) to"
    r"|i (?:do not|don't) have (?:the (?:ability|capability|tools) to"
    r" (?:help|assist|browse|access|do|perform)"
    r"|access to (?:the internet|real-time|external|browsing|any tools)|real-time|browsing)"
    r"|(?:that|this)(?:'s| is) (?:not something i (?:can|am able to|'m able to)"
    r"|something i (?:can't|cannot|won't|am not able to|'m not able to))(?: \w+)?"
    r" (?:help|assist|do|provide|support)"
    r"|(?:this|that|your) (?:request )?(?:violates|goes against|is against) (?:my|our|the) (?:\w+ )?"
    r"(?:guidelines|polic|principles|programming)"
    r"|it (?:would be|is) (?:inappropriate|unethical) for me to"
    r"|my (?:\w+ )?guidelines (?:do not|don't|prevent|prohibit)"
    r")"
)
_LEAD = r"(?:^|[.!?,;:\n¡]\s*)(?:(?:aber|pero|mais|ma|mas|maar|men|но|але|ale|sed) )?"
_SENTENCES = (
    r"(?:da|hier)(?:bei|mit|zu)? kann ich (?:\w+ )?(?:leider )?nicht (?:weiter)?helfen",
    r"(?:leider )?(?:ich kann|kann ich) (?:\w+ ){0,3}?(?:dabei|damit|hierbei|diese[rmn]? \w+|das|dies|nicht)"
    r" ?(?:leider )?(?:nicht )?(?:\w+ ){0,2}?"
    r"(?:helfen|weiterhelfen|nachkommen|erfüllen|behilflich|unterstützen|beantworten)",
    r"no (?:puedo|me es posible) (?:ayudar|asistir|cumplir|proporcionar (?:es[ae]|este|asistencia)|hacer eso"
    r"|atender|responder a es)",
    r"não (?:posso|consigo) (?:\w+ )?(?:ajudar|atender|cumprir|fornecer (?:ess|est)|fazer isso)",
    r"non (?:posso|sono in grado di) (?:aiutar|assister|soddisfare|fornire quest|rispondere a quest)",
    r"je (?:ne peux|ne suis) (?:malheureusement )?pas (?:en mesure (?:de |d'))?(?:vous |t'|te )?"
    r"(?:aider|assister|répondre à (?:cette|votre)|faire (?:cela|ça)|satisfaire|fournir (?:cette|ce))",
    r"ik kan (?:\w+ )?(?:daar|hier)?(?:bij|mee)? ?(?:helaas )?niet (?:bij |mee )?(?:helpen|assisteren)",
    r"jag kan (?:tyvärr )?inte hjälpa",
    r"jeg kan (?:desværre |dessverre |beklageligvis )?ikke hj[æe]lpe",
    r"nie mogę (?:w tym |ci |panu |pani )?(?:pomóc|spełnić|udzielić)",
    r"(?:s tím )?(?:bohužel )?nemohu (?:vám |s tím )?(?:pomoci|vyhovět)",
    r"(?:bu konuda |size )?yardımcı olam(?:am|ıyorum)",
    r"(?:saya|aku) tidak (?:bisa|dapat) (?:membantu|memenuhi)",
    r"tôi không thể (?:giúp|hỗ trợ|cung cấp)",
    r"я (?:к сожалению,? )?не могу (?:вам |с этим |тебе )?(?:помочь|выполнить (?:эт|ваш))",
    r"я не можу (?:вам )?допомогти",
)
"""Beginnings of sentences: German, Spanish, Portuguese, Italian, French, Dutch, Swedish, Danish and
Norwegian, Polish, Czech, Turkish, Indonesian, Vietnamese, Russian, Ukrainian."""
_ANYWHERE = (
    r"我(?:无法|不能|無法|没有办法)(?:为您|为你|在这方面|為您)?"
    r"(?:提供(?:这|此|帮)|协助|帮助|帮您|满足|回答(?:这|该|此)|協助|幫助)",
    r"(?:お手伝い|お答え|ご?対応|お役に立つことが?)(?:は|が|することが?)?(?:できません|できかねます|いたしかねます)",
    r"(?:도와드릴|도움을 드릴|요청을 (?:처리|수행|들어드릴)\S{0,2}) ?수 ?(?:가 )?없",
    r"(?:لا أستطيع|لا يمكنني) (?:مساعدت|تلبية|تقديم المساعدة)",
    r"मदद नहीं कर सक",
)
"""Chinese, Japanese, Korean, Arabic, Hindi: where refusals do not begin a sentence."""
_OTHERS = re.compile(f"{_LEAD}(?:{'|'.join(_SENTENCES)})|{'|'.join(_ANYWHERE)}")
