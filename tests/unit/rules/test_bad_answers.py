"""Which answers are bad: labelled texts in several languages, calls, and what must be left alone."""

from __future__ import annotations

import json

import orjson
import pytest

from gateway.domain import Answer, Json, Step, Surface, ToolCall
from gateway.rules.bad_answers import MAX_REFUSAL_CHARS, bad_answer, is_refusal
from gateway.surfaces import CODECS

REFUSALS = """
I'm sorry, but I can't help with that.
I’m sorry, but I can’t assist with that request.
Sorry, I can't help with that.
I can't assist with that.
I cannot assist with that request.
I cannot help you with this.
I can not comply with this request.
I am unable to help with that.
I'm unable to assist with this request.
I'm not able to help with that.
I won't help with that.
I will not assist with this.
I apologize, but I cannot fulfill this request.
I apologize, but I can't provide assistance with that.
I'm really sorry, but I'm unable to provide that information.
Unfortunately, I can't help with that.
Unfortunately, I am not able to assist with this request.
I must decline this request.
I have to respectfully decline.
I respectfully decline to answer.
I can't comply with that.
I can't do that.
I'm sorry, I cannot do this.
As an AI language model, I cannot help with that.
As an AI, I can't provide advice on this topic.
As an AI assistant, I do not have access to real-time information.
I don't have access to real-time data.
I don't have the ability to browse the internet.
I'm unable to browse the web.
I can't access the internet.
I'm not comfortable doing that.
That's not something I can help with.
This is not something I am able to assist with.
This request violates my guidelines.
This goes against my programming.
It would be inappropriate for me to answer.
I can't in good conscience continue.
I understand your frustration, but I can't help with that.
Thank you for your question. I cannot provide information on that topic.
I can't provide instructions for that.
I'm not able to process this request.
I cannot complete that task.
My guidelines don't allow this.
I won't be able to help with that.
I can't engage with this.
I cannot generate such content.
Es tut mir leid, aber ich kann dabei nicht helfen.
Dabei kann ich leider nicht helfen.
Ich kann diese Anfrage leider nicht erfüllen.
Ich kann Ihnen damit nicht weiterhelfen.
Lo siento, pero no puedo ayudar con eso.
Lo siento, no puedo cumplir con esta solicitud.
Je suis désolé, mais je ne peux pas vous aider avec ça.
Je ne peux pas répondre à cette demande.
Mi dispiace, ma non posso aiutarti con questo.
Desculpe, mas não posso ajudar com isso.
Het spijt me, maar ik kan daar niet bij helpen.
Tyvärr. Jag kan inte hjälpa till med det.
Jeg kan desværre ikke hjælpe med det.
Przepraszam, ale nie mogę w tym pomóc.
Bohužel nemohu vám pomoci.
Üzgünüm, bu konuda yardımcı olamam.
Maaf, saya tidak dapat membantu dengan permintaan itu.
Xin lỗi, tôi không thể giúp bạn việc này.
Извините, но я не могу помочь с этим.
Вибачте, але я не можу допомогти.
抱歉，我无法协助处理这个请求。
对不起，我不能回答这个问题。
很抱歉，我無法協助您。
申し訳ありませんが、そのご要望にはお答えできません。
申し訳ございませんが、お手伝いできません。
죄송하지만 그 요청은 도와드릴 수 없습니다.
عذرًا، لا أستطيع مساعدتك في ذلك.
क्षमा करें, मैं इसमें मदद नहीं कर सकता।
""".strip().split("\n")

ANSWERS = """
I can't find any open tickets.
I cannot see a charge of that amount on the account.
I couldn't find the file you mentioned.
There are no open tickets for this customer.
No results.
None.
No
The order does not exist.
Your card was declined.
The request was refused by the server with status 403.
I'm sorry to hear that your parcel is late; it arrives on Friday.
Sorry for the delay. The report is attached below.
Unfortunately, the flight is fully booked.
Unfortunately, the refund window of 30 days has passed, so the refund was rejected.
I can't find an order 88412. Could you check the number?
I cannot open config.yaml: permission denied.
I can't access the file /etc/shadow: permission denied.
I wasn't able to run the tests because pytest is not installed.
I'm unable to find a cheaper flight on that date.
I am unable to reproduce the bug on main.
I'm not able to see any errors in the log.
I won't change the public API; only the helper is renamed.
I will not need the third table for this.
I can help you with that! Which city?
I'd be happy to help with that.
I can do that.
Yes, I can assist with refunds. Please tell me the order number.
I can't wait to see the result. The build is green.
You can't help with that: only admins may close tickets.
The agent said: "I can't help with that."
The customer wrote that support "cannot assist with that request".
The model refused the request.
He declined the offer on May 3.
Access denied for user 'app'.
The policy does not allow refunds after 30 days.
This violates the unique constraint orders_pk.
The change goes against the principle of least surprise, so I kept the old name.
It is inappropriate to store passwords in plain text; use argon2.
I have declined the meeting invitation as you asked.
I declined the invitation for you.
I refused the connection from 10.0.0.8 as configured.
The proposal must be declined by Friday.
I have to refund the order first.
I need to check the warehouse before I can say.
I don't have the order number yet. Could you send it?
I don't have enough information: which of the two invoices is meant?
I don't have access to the folder /finance; it is owned by root.
I don't know.
I do not have any notes on this customer.
As an AI researcher, she published twelve papers.
As an AI project, the budget is 2.1 M.
My guess is 42.
The guidelines do not mention this case.
Sorry, that was a typo: the total is 42.
I'm afraid the shop closes at six.
I apologize for the confusion. The correct total is 42.
I'm sorry, but the item is out of stock until May.
Sorry, but the table has only three rows.
I'm sorry, the flight was cancelled.
I understand. The refund was booked.
Thank you. I cannot find a second account for you, only this one.
However, I can't confirm the second date from the log.
I cannot confirm that the payment went through.
I can't tell which of the two is meant.
I can't verify the signature: the key is missing.
I cannot rule out a race condition.
I can't recommend the second vendor: no SLA.
I cannot delete the branch: it is protected.
I can't cancel the order since it was already shipped.
I'm unable to cancel it, because it was shipped yesterday; a return is possible.
The function can't handle empty input.
We cannot help with that order, since it was placed with another shop, says the FAQ.
The server cannot process the entity.
This is something I can do right away.
That is not something the API offers.
It would be better to wait.
Final Answer: 42
{"status": "refused", "reason": "I can't help with that"}
[{"text": "I cannot assist with that request."}]
```text
Dear Ms. Roe, I cannot help with your request. Kind regards
Subject: I can't help with that
> I can't help with that.
"I can't help with that." is what the bot says.
def refuse(): return "I can't help"
# I can't help with that
<reply>I can't help with that</reply>
Ich kann keine offenen Tickets finden.
Ich kann die Datei nicht öffnen: Zugriff verweigert.
Leider ist der Zug ausgebucht.
Es tut mir leid, dass das Paket zu spät kommt. Es kommt am Freitag.
Das hilft nicht weiter, die Ursache liegt im Cache.
No puedo encontrar ningún pedido con ese número.
Lo siento, el vuelo está completo.
No hay resultados.
Je ne peux pas trouver cette facture.
Je suis désolé, le vol est complet.
Non posso trovare il file.
Não encontrei nenhum pedido.
Ik kan geen open tickets vinden.
Nie mogę znaleźć tego zamówienia.
Я не могу найти этот заказ.
К сожалению, рейс отменён.
我找不到该订单。
抱歉，该航班已满。
没有结果。
注文が見つかりませんでした。
申し訳ありませんが、在庫がありません。
해당 주문을 찾을 수 없습니다.
لم أجد أي طلبات مفتوحة.
कोई परिणाम नहीं मिला।
""".strip().split("\n")


@pytest.mark.parametrize("text", REFUSALS)
def test_a_plain_refusal_is_a_bad_answer(text: str) -> None:
    assert bad_answer(Answer(texts=(text,), finish_reason="stop"), STEP, fits) == "it refuses"


@pytest.mark.parametrize("text", ANSWERS)
def test_what_was_not_found_or_not_allowed_is_an_answer(text: str) -> None:
    assert bad_answer(Answer(texts=(text,), finish_reason="stop"), STEP, fits) is None


def test_the_corpus_is_large_enough() -> None:
    assert len(set(REFUSALS)) >= 60
    assert len(set(ANSWERS)) >= 100


def test_a_long_text_is_no_refusal() -> None:
    text = "I can't help with that. "
    assert is_refusal(text)
    assert not is_refusal(text + "x" * MAX_REFUSAL_CHARS)


def fits(_call: ToolCall) -> str | None:
    return None


def step(
    history: list[Json], tools: tuple[str, ...] = ("search", "get_next", "read"), **more: object
) -> Step:
    body = {
        "model": "gpt-4o-mini",
        "messages": [{"role": "user", "content": "Find it."}, *history],
        "tools": [{"type": "function", "function": {"name": name, "parameters": {}}} for name in tools],
        **more,
    }
    return CODECS[Surface.CHAT].parse(orjson.dumps({k: v for k, v in body.items() if v != []}))


def called(call_id: str, name: str, arguments: str) -> Json:
    call = {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}
    return {"role": "assistant", "content": None, "tool_calls": [call]}


def returned(call_id: str, text: str) -> Json:
    return {"role": "tool", "tool_call_id": call_id, "content": text}


STEP = step([])
ONCE = [called("a", "search", '{"q": "x", "n": 1}'), returned("a", "three hits")]
Seen = tuple[str, list[Json], Answer, str | None]


def says(*calls: tuple[str, str], finish: str = "tool_calls") -> Answer:
    return Answer(
        texts=("",), calls=tuple(ToolCall("n", name, given) for name, given in calls), finish_reason=finish
    )


SAME = says(("search", '{"n":1,"q":"x"}'))
REPEATED = "it repeats the call before, which was answered"
CALLS: list[Seen] = [
    ("the same call, other order of keys", ONCE, SAME, REPEATED),
    ("other arguments", ONCE, says(("search", '{"q":"x","n":2}')), None),
    ("another tool", ONCE, says(("read", '{"n":1,"q":"x"}')), None),
    ("not answered yet", ONCE[:1], SAME, None),
    ("it failed", [ONCE[0], returned("a", "Error: timed out")], SAME, None),
    ("still at it", [ONCE[0], returned("a", '{"status": "pending"}')], SAME, None),
    ("an empty result", [ONCE[0], returned("a", "")], SAME, None),
    (
        "the user asked again",
        [*ONCE, {"role": "user", "content": "Look once more, I have just added it."}],
        SAME,
        None,
    ),
    (
        "a result that changes",
        [called("b", "search", '{"q": "x", "n": 1}'), returned("b", "two hits"), *ONCE],
        SAME,
        None,
    ),
    (
        "a result that does not change",
        [called("b", "search", '{"q": "x", "n": 1}'), returned("b", "three hits"), *ONCE],
        SAME,
        REPEATED,
    ),
    (
        "the next page",
        [called("a", "get_next", "{}"), returned("a", "page 2")],
        says(("get_next", "{}")),
        None,
    ),
    (
        "something came between",
        [*ONCE, called("c", "read", "{}"), returned("c", "text")],
        SAME,
        None,
    ),
    (
        "one of two calls",
        [
            {
                "role": "assistant",
                "tool_calls": [
                    *called("a", "search", "{}")["tool_calls"],
                    *called("b", "read", "{}")["tool_calls"],
                ],
            },
            returned("a", "three hits"),
            returned("b", "text"),
        ],
        says(("search", "{}")),
        None,
    ),
    (
        "both of two calls",
        [
            {
                "role": "assistant",
                "tool_calls": [
                    *called("a", "search", "{}")["tool_calls"],
                    *called("b", "read", "{}")["tool_calls"],
                ],
            },
            returned("a", "three hits"),
            returned("b", "text"),
        ],
        says(("read", "{}"), ("search", "{}")),
        REPEATED,
    ),
    ("no such tool", [], says(("serach", "{}")), "it calls 'serach', which is not offered"),
    (
        "one that was called before, however it came",
        [called("a", "mcp__docs__find", "{}"), returned("a", "x")],
        says(("mcp__docs__find", '{"q": 1}')),
        None,
    ),
    ("a call that fits", [], says(("search", "{}")), None),
]


@pytest.mark.parametrize(("history", "answer", "expected"), [c[1:] for c in CALLS], ids=[c[0] for c in CALLS])
def test_calls(history: list[Json], answer: Answer, expected: str | None) -> None:
    assert bad_answer(answer, step(history), fits) == expected


def test_arguments_off_the_schema_are_told_with_the_reason() -> None:
    def invalid(call: ToolCall) -> str | None:
        return None if json.loads(call.arguments) else "no 'q'"

    assert bad_answer(says(("search", "{}")), STEP, invalid) == (
        "its arguments for 'search' do not fit: no 'q'"
    )
    assert bad_answer(says(("search", '{"q": 1}')), STEP, invalid) is None


@pytest.mark.parametrize("texts", [(), ("",), (" \n",), ("", "  ")])
def test_nothing_said_is_a_bad_answer(texts: tuple[str, ...]) -> None:
    assert bad_answer(Answer(texts=texts, finish_reason="stop"), STEP, fits) == "it is empty"
    assert bad_answer(Answer(texts=texts, reasoning="hm", finish_reason="stop"), STEP, fits) == "it is empty"


@pytest.mark.parametrize(
    ("answer", "request_"),
    [
        (Answer(background=True), STEP),
        (Answer(texts=("",), hosted=("web_search",)), STEP),
        (Answer(texts=("",), finish_reason="pause_turn"), STEP),
        (Answer(texts=("",)), step([], modalities=["text", "audio"])),
        (Answer(texts=("",), finish_reason="length"), step([], max_tokens=1)),
        (Answer(texts=("", "yes")), STEP),
    ],
)
def test_some_answers_need_no_text(answer: Answer, request_: Step) -> None:
    assert bad_answer(answer, request_, fits) in (None, "it was cut off before the caller's own limit")


@pytest.mark.parametrize("finish", ["refusal", "content_filter"])
def test_an_answer_that_the_provider_ended_is_bad(finish: str) -> None:
    assert bad_answer(Answer(texts=("The",), finish_reason=finish), STEP, fits) == f"it was ended as {finish}"


CUT = "it was cut off before the caller's own limit"


@pytest.mark.parametrize("finish", ["length", "max_tokens", "max_output_tokens"])
@pytest.mark.parametrize(
    ("text", "limit", "clamped", "expected"),
    [
        ("The first half of", None, False, CUT),
        ("The first half of", None, True, None),
        ("The first half of", 4_000, False, CUT),
        ("x" * 4_000, 4_000, False, None),
        ("The first half of", 17, False, None),
    ],
)
def test_an_answer_cut_off_by_the_model_s_own_limit_is_bad(
    finish: str, text: str, limit: int | None, clamped: bool, expected: str | None
) -> None:
    request = step([]) if limit is None else step([], max_tokens=limit)
    assert bad_answer(Answer(texts=(text,), finish_reason=finish), request, fits, clamped=clamped) == expected


def test_hostile_texts_take_linear_time() -> None:
    for text in ("sorry " * 200_000, "i can't " * 100_000, "\u0130" * 500, "ich kann " * 80, "\ud800" * 300):
        bad_answer(Answer(texts=(text,)), STEP, fits)
