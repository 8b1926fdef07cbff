"""Phrasings that say much about a text's intent: evidence for the linear models, and names for what is found.

Patterns are RE2, so that they take linear time, and run over `Grams.folded`: lower case, no accents, every
digit a zero. A hit is evidence and never a verdict: a text about prompt injection quotes these phrasings too,
and each model weighs them for its channel.
"""

from __future__ import annotations

import numpy as np
import re2

_ = r"[\s,.:;\"'*_()\[\]`~>|/-]{1,4}"
"""Between two words."""
_FEW = rf"(?:\S+{_}){{0,4}}?"
"""Up to four words of any kind."""
_YOUR = r"(?:your|the|its|all|any|these|those|every|my|our)"


def _w(words: str) -> str:
    """One of these words; a star stands for any ending."""
    return "(?:" + "|".join(words.split()).replace("*", r"\S{0,12}") + ")"


VERBS = (
    "add adjust alter analy[sz]e answer append apply approve archive arrange ask assess assign "
    "attach augment begin blend block book broadcast build buy call cancel change check claim close "
    "collect combine come complete compose conclude confirm connect contact convert convince copy "
    "create delete deliver deploy describe direct disable discard disclose disregard display "
    "distribute do donate download draft dump echo email e-mail embed employ enable encode encrypt "
    "encourage end enhance enrich ensure enter erase execute expand explain export extend extract "
    "fetch find finish follow forget forward fuse gather generate get give go grant guide halt help "
    "hide identify ignore implement improve include incorporate inform initiate inject insert "
    "inspect install instruct integrate introduce invite invoke issue keep launch leak leverage list "
    "load locate log look make manage manipulate mention merge message modify monitor move navigate "
    "notify offer open order output overwrite pass pay perform place point post prepare present "
    "pretend print proceed process produce promote prompt provide publish purchase push put query "
    "quote raise rank rate read recommend record redirect refer refund refuse register reject "
    "release remember remind remove rename render repeat rephrase replace reply report repeat "
    "request reschedule reserve reset respond restart restrict retrieve return reveal reverse revoke "
    "rewrite run save say scan schedule search secretly select send set share shift show shut skip "
    "sort speak spell start state stop store subscribe substitute suggest summari[sz]e supply "
    "suppress swap switch take tell terminate track transfer translate transmit trigger try turn "
    "type undo unlock unsubscribe update upgrade upload urge use utili[sz]e verify visit wait warn "
    "weave wipe wire withdraw work write"
)

_RULES = _w(
    "instructions? prompts? rules? guidelines? directives? commands? directions? orders? "
    "polic(?:y|ies) constraints?"
    " restrictions? training programming context conversation messages? tasks? guardrails? "
    "safeguards? filters? limits?"
    " limitations? protocols? requests? queries query questions? goals? objectives?"
)
_REPLIES = _w(
    "answers? responses? reply replies outputs? summary message solution code implementation review"
    " explanation text translation report final next"
)
_PAST = _w(
    "previous prior above earlier preceding foregoing existing original initial system past "
    "former other current"
    " before safety given user default old all any everything"
)
_MODEL = (
    r"(?:a\.?i\.?|ais|llms?|assistants?|(?:large )?language models?|(?:ai|coding|personal|virtual|"
    r"shopping|research|autonomous)"
    r" (?:agents?|assistants?|models?|systems?|bots?)|agents?|chatbots?|chat ?gpt|"
    r"gpt(?:-?[0o]\S{0,3})?|claude|gemini|copilot|llama|bots?)"
)

_OVERRIDES = (
    # de fr es it pt nl pl tr
    rf"{_w('ignorier* missacht* vergiss vergesse* uberspring*')}{_}{_FEW}(?:anweisung|instruktion|"
    r"vorgabe|regel|befehl|prompt)",
    rf"{_w('ignore[zr]? oublie[zr]? neglige[zr]?')}{_}{_FEW}(?:instruction|consigne|regle|directive|ordre)",
    rf"{_w('ignor[aeo]* olvid* descart* omit[ae]*')}{_}{_FEW}(?:instruccion|indicacion|regla|orden|"
    r"directri)",
    rf"{_w('ignor[aeio]* dimentic* trascur*')}{_}{_FEW}(?:istruzion|regol|indicazion|direttiv|ordin)",
    rf"{_w('ignor[aei]* esquec* desconsider* desconsidere')}{_}{_FEW}(?:instruc|regra|orientac|"
    r"diretriz|ordens)",
    rf"{_w('negeer vergeet')}{_}{_FEW}(?:instructie|regel|opdracht|richtlijn|aanwijzing)",
    rf"{_w('zignoruj* ignoruj* zapomnij* pomin*')}{_}{_FEW}(?:instrukcj|polecen|zasad|wytyczn|regul)",
    rf"(?:talimat|komut|yonerge|kural)\S*{_}{_FEW}(?:yok\s?say|gormezden|unut|dikkate alma)",
    # ru
    rf"(?:игнорируи\S*|проигнорируи\S*|забудь\S*|не обращаи\S* внимания на){_}{_FEW}(?:инструкц|"
    r"указан|правил|команд|директив)",
    # zh ja ko
    r"(?:忽略|无视|無視|忘记|忘記|忘掉|不要理会|不理会|抛开|绕过)[^\n]{0,48}(?:指令|指示|提示|规则|規則|要求|命令|设定|内容|说明|对话)",
    r"(?:指示|命令|プロンプト|ルール|指令|設定|制約)[^\n]{0,30}(?:無視|忘れ|破棄|従わない)",
    r"(?:지시|지침|명령|규칙|프롬프트|설정)[^.\n]{0,36}(?:무시|잊|따르지)",
    # ar hi
    rf"(?:تجاهل|تجاهلي|تجاهلوا|انس|انسى){_}{_FEW}(?:ال)?(?:تعليمات|اوامر|أوامر|توجيهات|قواعد|إرشادات)",
    r"(?:निर्देश|आदेश|नियम|अनुदेश)[^\n]{0,72}(?:अनदेखा|नज़रअंदाज|नजरअंदाज|भूल|उपेक्षा)",
)

_SOURCES: tuple[tuple[str, str], ...] = (
    (
        "instruction_override",
        r"\b(?:ignor(?:e|ing)|disregard(?:ing)?|forget(?:ting)?|overrid(?:e|ing)|bypass|discard|"
        r"neglect|abandon|dismiss|set aside|pay no attention to"
        r"|do not (?:follow|obey)|don't (?:follow|obey)|stop following|supersedes?|replaces?|"
        rf"takes? precedence over|cancel){_}{_FEW}{_PAST}{_}{_FEW}{_RULES}\b",
    ),
    (
        "instruction_override",
        rf"\b(?:ignore|disregard|forget|override){_}(?:everything|anything|all|"
        rf"what)\b{_}{_FEW}(?:above|before|said|told|else|prior|previous)",
    ),
    ("foreign_override", "|".join(f"(?:{p})" for p in _OVERRIDES)),
    (
        "new_instructions",
        r"\b(?:new|updated|real|actual|revised|true|additional|next|important|urgent|special|"
        rf"secret|hidden){_}(?:instructions?|task|directive|orders?|objective|mission|goal)\s*(?::|"
        r"is\b|are\b|follows?\b|for\b)"
        rf"|\bstrictly{_}(?:adhere|follow|obey|comply)|\b(?:must|have to|should|"
        rf"need to){_}(?:now{_})?(?:follow|obey|adhere|comply|execute)\b",
    ),
    (
        "prompt_extraction",
        r"\b(?:reveal|show|print|repeat|output|display|tell|give|leak|dump|expose|share|disclose|"
        r"recite|copy|return|write|translate|summari[sz]e|encode|what (?:is|are|was|"
        rf"were)){_}{_FEW}"
        r"(?:(?:system|hidden|initial|original|developer|secret|internal|first|starting|"
        rf"pre){_})(?:{_FEW})(?:prompts?|instructions?|messages?|rules|guidelines|configuration|"
        r"text)\b"
        rf"|\b(?:your|the){_}system{_}prompt\b|\b(?:everything|words|text|all){_}above\b",
    ),
    (
        "role_marker",
        r"<\|(?:im_start|im_end|system|user|assistant|endoftext|eot_id|end|start_header_id|"
        r"begin_of_text|tool)[^>]{0,10}\|?>|\[/?inst\]|<</?sys>>|<(?:start|end)_of_turn>"
        r"|#{2,} ?(?:system|instructions?|assistant|human|user|new instructions?|admin)\b\s*:?|"
        r"</?(?:system|assistant|user|instructions?|admin|important|information|secret|"
        r"tool_result|function_results?|system[-_]reminder|tool_response|override)>"
        r"|\[/?(?:system|assistant|admin|important|instructions?|hidden|override)[^\]\n]{0,24}\]",
    ),
    (
        "fake_turn",
        r"(?:^|\n|\\n|\")\s*[*#>\-]{0,3}\s*(?:human|assistant|system|user|observation|thought|"
        r"action|action input|final answer|ai|tool|developer)(?: message| note|"
        r" prompt)?\s*[*]{0,2}:",
    ),
    (
        "concealment",
        r"\b(?:do not|don't|never|must not|without|avoid|no need to|"
        rf"not){_}(?:ever{_})?(?:tell(?:ing)?|mention(?:ing)?|inform(?:ing)?|notify(?:ing)?|"
        r"alert(?:ing)?|reveal(?:ing)?|disclos(?:e|ing)|show(?:ing)?|let(?:ting)?|ask(?:ing)?|"
        rf"report(?:ing)?|acknowledg(?:e|ing)|warn(?:ing)?){_}{_FEW}"
        r"(?:user|human|anyone|anybody|owner|customer|operator|this|these|about|confirmation|"
        r"permission|it to)\b|\b(?:silently|secretly|covertly|discreetly|quietly)\b",
    ),
    (
        "addressed_to_model",
        r"\b(?:dear|hey|hello|hi|attention|note (?:to|for)|message (?:to|for|from)|"
        r"instructions? (?:to|for)|notice (?:to|for)|if you(?: are|'re)|any|all|every|whichever|"
        rf"to (?:the|any|all)|as (?:a|an|the))\b{_}(?:(?:a|an|the|any|all|you|future|other|reading|"
        rf"processing){_}){{0,2}}{_MODEL}\b"
        rf"|\b{_MODEL}{_}(?:reading|processing|summari[sz]ing|parsing|must|should|shall|please|"
        r"who reads?|that reads?)\b",
    ),
    (
        "persona",
        r"\b(?:you are now|you're now|from now on|act as|acting as|pretend (?:to be|that|you)|"
        r"role-?play|play the role|stay in character|imagine you are|you will (?:now )?(?:be|act)|"
        r"developer mode|dan mode|do anything now|jail-?br\S+|unfiltered|uncensored|unrestricted|"
        r"amoral"
        rf"|(?:no|without|any|free (?:of|from)){_}{_FEW}(?:restrictions|limitations|filters|"
        r"censorship|ethic\S*|moral\S*|guidelines)|never refuse|cannot refuse|can't refuse)\b",
    ),
    (
        "exfiltration",
        r"\b(?:send|forward|e-?mail|post|upload|transmit|exfiltrate|leak|share|submit|deliver|"
        rf"copy|append|attach|bcc|cc){_}(?:\S+{_}){{0,10}}?(?:to|at|via|with|"
        rf"into){_}(?:\S+{_}){{0,4}}?(?:https?://|[^\s@]+@\S\S|www\.)",
    ),
    (
        "url_action",
        r"\b(?:visit|open|go to|navigate to|click|fetch|browse|download|request|load|access|curl|"
        rf"wget|follow|direct\S* \S+ to){_}(?:\S+{_}){{0,6}}?(?:https?://|www\.)",
    ),
    (
        "command",
        r"curl [^\n|]{0,120}\| ?(?:sudo )?(?:ba|z)?sh\b|\brm -rf\b|powershell\S* -e\w*|base00 -d|"
        r"invoke-expression|\bwget [^\n]{0,80}&& ?(?:sh|bash|chmod)|chmod \+x",
    ),
    (
        "tool_call",
        rf"\b(?:call|use|using|invoke|run|execute|trigger|via){_}(?:\S+{_}){{0,4}}?(?:tools?|"
        r"functions?|apis?|plugins?|command|endpoint)\b|\b[a-z]+_[a-z_]+\(",
    ),
    (
        "credentials",
        r"\b(?:api keys?|passwords?|access tokens?|credentials?|ssh keys?|private keys?|secrets?|"
        r"0fa|one-time code|credit cards?|\.env|cookies?|id_rsa|environment variables?|"
        r"session tokens?|bank (?:details|account))\b",
    ),
    (
        "payment",
        rf"\b(?:transfer|wire|send|pay|refund|purchase|buy|donate){_}(?:\S+{_}){{0,5}}?(?:\$|€|£|"
        r"eur\b|usd\b|btc\b|eth\b|dollars?|funds?|money|payment|gift cards?|bitcoin|crypto|iban|"
        r"account)",
    ),
    (
        "urgency",
        r"\b(?:urgent(?:ly)?|immediately|critical|asap|top priority|highest priority|at once|"
        r"right away|important!+|before (?:doing|you (?:do|can|continue|answer|proceed)|"
        r"continuing|answering|anything|proceeding|responding))\b",
    ),
    (
        "false_end",
        r"\b(?:task|answer|request|query|summary|instructions?)\s*:?\s*(?:is |has been |was |"
        r"are )?(?:complete[d]?|finished|done|fulfilled|over)\b|\bend of (?:the )?(?:document|"
        r"results?|data|context|e-?mail|file|input|text|message|page|tool|instructions?)\b|"
        r"[-=*#]{4,}\s*(?:end|begin|start)",
    ),
    (
        "answer_control",
        r"\b(?:add|include|append|insert|mention|incorporate|embed|integrate|end|begin|start|"
        r"finish|prefix|modify|change|enhance|augment|replace|alter|adjust|conclude|weave|"
        rf"put){_}(?:\S+{_}){{0,7}}?(?:your|the final|the){_}(?:\S+{_}){{0,2}}?(?:answer|response|"
        r"reply|output|summary|message|solution|review|analysis|report|translation|code)s?\b"
        rf"|\b(?:respond|reply|answer){_}(?:only|just|with|in|using|exclusively|by|as)\b|\b(?:just|"
        rf"only|simply){_}(?:say|print|output|respond|reply|write|answer|return)\b|"
        r"\bin your (?:answer|response|reply|output|summary)\b|\byour (?:answer|response|reply|"
        r"output)\b",
    ),
    (
        "authority",
        r"\b(?:admin(?:istrator)?|developer|openai|anthropic|security team|system|it department|"
        r"compliance|operator|supervisor|ceo|authori[sz]ed)[\s:_-]{1,3}(?:override|notice|message|"
        r"mode|access|instructions?|alert|directive|update|request|announcement|approved|"
        r"personnel)\b|\bauthori[sz]ed by\b|\b(?:the )?user (?:has |have |had )?(?:already |"
        r"explicitly |previously )?(?:approved|confirmed|authori[sz]ed|consented|agreed|granted|"
        r"requested|wants|asked)\b",
    ),
    (
        "memory",
        r"\b(?:remember|memori[sz]e|store|save|record|persist|update|write|"
        rf"add){_}(?:\S+{_}){{0,8}}?(?:memory|memories|future (?:conversations?|sessions?|"
        r"interactions?|requests?)|permanently|long-term|knowledge base)\b|\b(?:in|"
        r"for) all future\b",
    ),
    (
        "trigger",
        rf"\b(?:when(?:ever)?|if|once|next time|the next time|as soon as|after){_}(?:the )?(?:user|"
        rf"human|customer|operator|someone){_}(?:\S+{_}){{0,3}}?(?:says?|asks?|mentions?|types?|"
        r"requests?|wants?|repl(?:y|ies)|confirms?)\b",
    ),
    # What orders are made of, whatever they are about.
    (
        "imperative",
        rf"(?:^|[.!?:;\n\">*#-]|\d\.|\bthen|\band|\balso)\s{{0,2}}(?:(?:please|kindly|also|then|"
        rf"now|first|next|just|simply|always|immediately|instead|assistant),?\s)*"
        rf"{_w(VERBS)}\b",
    ),
    (
        "your_reply",
        rf"\byour{_}(?:\S+{_})?{_REPLIES}\b",
    ),
    ("the_user", r"\b(?:the|this|your|our) (?:user|human|customer|reader|client)(?:s|'s)?\b"),
    (
        "obligation",
        rf"\byou{_}(?:must|should|shall|have to|need to|are (?:now |required |expected |"
        rf"instructed )?to|will now|may not|can now|are not allowed)\b|\b(?:required|mandatory|"
        rf"obligatory|compulsory)\b",
    ),
    (
        "code_request",
        rf"\b(?:following|below|subsequent|next|this|these|above){_}(?:piece of{_})?(?:code|"
        rf"snippet|script|function|program|lines?)\b",
    ),
    ("mail_address", r"[a-z0-9._+-]+@[a-z0-9-]+\.[a-z]"),
    ("link", r"https?://|www\."),
    ("first_person", r"\b(?:my|for me|to me|tell me|give me|i want|i need|i would like)\b"),
    # Texts about attacks: evidence for the other side.
    (
        "discussion",
        r"\b(?:prompt[- ]injections?|jail-?breaks?|attack(?:er|ers|s)?|adversar\w+|vulnerab\w+|"
        r"mitigat\w+|malicious|red[- ]team\w*|owasp|cve-|exploit\w*|guardrails?|security|"
        r"detect\w*|defen[cs]e\w*|classif\w+|dataset|benchmark)\b",
    ),
)

_SHAPES = (
    "imperative",
    "your_reply",
    "the_user",
    "obligation",
    "code_request",
    "mail_address",
    "link",
    "first_person",
)
NAMES = tuple(name for name, _pattern in _SOURCES)
"""The kind of finding each pattern stands for; the most telling first."""
EVIDENCE_ONLY = frozenset(
    (*_SHAPES, "discussion", "urgency", "credentials", "fake_turn", "tool_call", "false_end")
)
"""Kinds that never give a finding its name."""

_OPTIONS = re2.Options()
# Bytes: a pattern over UTF-8's code points is several times as large, and none here needs them.
_OPTIONS.encoding = re2.Options.Encoding.LATIN1
_OPTIONS.max_mem = 64 << 20
_OPTIONS.never_capture = True
_PATTERNS = tuple(re2.compile(pattern.encode(), _OPTIONS) for _name, pattern in _SOURCES)
_SET = re2.Set.SearchSet(_OPTIONS)
for _name, _pattern in _SOURCES:
    _SET.Add(_pattern.encode())
_SET.Compile()


def hits(folded: str) -> list[tuple[int, int, int]]:
    """`(pattern, start, end)` in characters, for every pattern that occurs."""
    data = folded.encode("utf-8", "replace")
    found = [
        (index, *match.span())
        for index in sorted(_SET.Match(data) or ())
        for match in _PATTERNS[index].finditer(data)
    ]
    if found and len(data) != len(folded):
        return _in_characters(data, found)
    return found


def _in_characters(data: bytes, found: list[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
    """The same hits, counted in characters and not in bytes."""
    continued = (np.frombuffer(data, np.uint8) & 0xC0) == 0x80
    before = np.concatenate(([0], np.cumsum(~continued)))
    return [(index, int(before[start]), int(before[end])) for index, start, end in found]
