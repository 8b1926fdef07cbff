"""The shapes that providers give their keys, and the words that announce a secret of no shape.

Each shape is an RE2 pattern, written from the providers' own documentation of their formats; a group, if
there is one, is the secret. `loose` shapes are also those of other things, and are checked further.
"""

# ruff: noqa: E501 - a rule is a line

from __future__ import annotations

from gateway.values import frozen


@frozen
class Shape:
    """The keys of one provider, or one format."""

    type: str
    pattern: str
    score: float = 0.95
    mixed: bool = False
    """Letters of both cases and digits are needed, as random keys have and words have not."""
    sample: bool = True
    """Whether one that reads like a sample is left alone."""


_B64 = r"[A-Za-z0-9+/]"
_URL = r"[A-Za-z0-9_-]"
_NAME = r"[A-Za-z0-9_.\[\]\"' -]{0,24}"
_IS = r"[\"'`\])]{0,2}\s{0,3}(?:[:?]{0,3}=>?|:|,|\bis\b|=>)\s{0,3}[\"'`(\\]{0,3}"
_UUID = r"[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}"

SHAPES = (
    # Models
    Shape("ANTHROPIC_API_KEY", rf"\bsk-ant-[a-z]{{2,8}}\d\d-{_URL}{{24,}}"),
    Shape("OPENAI_API_KEY", rf"\bsk-(?:proj|svcacct|admin|None|service)-{_URL}{{20,}}", mixed=True),
    Shape("OPENAI_API_KEY", r"\bsk-[A-Za-z0-9]{20,64}\b", mixed=True),
    Shape("MODEL_API_KEY", r"\bsk-(?:or-v1-[0-9a-f]{64}|[0-9a-f]{32}|lf-[0-9a-f-]{36})\b"),
    Shape("MODEL_API_KEY", r"\b(?:gsk_[A-Za-z0-9]{40,60}|xai-[A-Za-z0-9]{60,}|pplx-[A-Za-z0-9]{40,60}|r8_[A-Za-z0-9]{35,40}|pcsk_[A-Za-z0-9_]{40,80}|nvapi-[A-Za-z0-9_-]{50,80}|tvly-[A-Za-z0-9-]{20,60}|lsv2_(?:pt|sk)_[0-9a-f]{32}_[0-9a-f]{10}|fw_[A-Za-z0-9]{20,30}|sk_[0-9a-f]{48})\b"),
    Shape("HUGGINGFACE_TOKEN", r"\b(?:hf_|api_org_)[A-Za-z0-9]{30,40}\b", mixed=True),
    # Clouds
    Shape("AWS_ACCESS_KEY", r"\b(?:AKIA|ASIA|ABIA|ACCA|A3T[A-Z0-9])[A-Z0-9]{16}\b"),
    Shape("AWS_SECRET_KEY", rf"(?i)\baws_?{_NAME}(?:secret|sk|key){_NAME}{_IS}([A-Za-z0-9/+]{{40}})(?:[^A-Za-z0-9/+=]|$)"),
    Shape("AWS_SECRET_KEY", rf"(?i)\bsecret_?access_?key{_IS}([A-Za-z0-9/+]{{40}})(?:[^A-Za-z0-9/+=]|$)"),
    Shape("AWS_SECRET_KEY", r"\b(?:AKIA|ASIA)[A-Z0-9]{16}[\"']?[\s,;:|/]{1,6}[\"']?([A-Za-z0-9/+]{40})(?:[^A-Za-z0-9/+=]|$)"),
    Shape("AWS_SECRET_KEY", r"\baws_secret_access_key\s{1,3}([A-Za-z0-9/+]{40})(?:[^A-Za-z0-9/+=]|$)"),
    Shape("AWS_BEDROCK_KEY", rf"\bABSK{_B64}{{109,}}={{0,2}}(?:[^A-Za-z0-9+/=]|$)|\bbedrock-api-key-YmVkcm9jay5hbWF6b25hd3MuY29t{_B64}*={{0,2}}", sample=False),
    Shape("GCP_API_KEY", rf"\bAIza{_URL}{{35}}(?:[^A-Za-z0-9_-]|$)", mixed=True),
    Shape("GCP_OAUTH_SECRET", rf"\bGOCSPX-{_URL}{{24,32}}|\bya29\.{_URL}{{30,}}|\b1//0{_URL}{{30,}}"),
    Shape("GCP_SERVICE_ACCOUNT", r"\"private_key_id\"\s{0,3}:\s{0,3}\"([0-9a-f]{40})\""),
    Shape("AZURE_CLIENT_SECRET", r"(?:^|[^A-Za-z0-9_~.+/-])([A-Za-z0-9_~.-]{3}\dQ~[A-Za-z0-9_~.-]{31,34})\.?(?:[^A-Za-z0-9_~.-]|$)"),
    Shape("AZURE_STORAGE_KEY", rf"(?i)(?:storage|account|key_?name)[^\n]{{0,80}}[^A-Za-z0-9+/=-]({_B64}{{86}}==)(?:[^A-Za-z0-9+/=]|$)"),
    Shape("AZURE_STORAGE_KEY", rf"(?i)\"key_?name\"[^}}]{{0,160}}\"({_B64}{{86}}==)\""),
    Shape("AZURE_DEVOPS_TOKEN", r"(?i)(?:azure_?devops|azdo|vsts|dev\.azure)[^\n]{0,60}?[^A-Za-z0-9]([a-z2-7]{52}|[A-Za-z0-9]{76}AZDO[A-Za-z0-9]{4})(?:[^A-Za-z0-9]|$)"),
    Shape("AZURE_STORAGE_KEY", rf"(?i)(?:Account|SharedAccess)Key=({_B64}{{40,88}}={{0,2}})"),
    Shape("AZURE_SAS_TOKEN", r"[?&]sig=([A-Za-z0-9%+/]{40,70}(?:%3D|=)?)(?:[^A-Za-z0-9%]|$)"),
    Shape("ALIBABA_ACCESS_KEY", r"\bLTAI[A-Za-z0-9]{17,21}\b", mixed=True),
    Shape("TENCENT_SECRET_ID", r"\bAKID[A-Za-z0-9]{32}\b", mixed=True),
    Shape("YANDEX_API_KEY", rf"\bAQVN{_URL}{{35,38}}", mixed=True),
    Shape("DIGITALOCEAN_TOKEN", r"\bdo[opr]_v1_[0-9a-f]{64}\b"),
    Shape("CLOUDFLARE_KEY", r"\bv1\.0-[0-9a-f]{24}-[0-9a-f]{100,}\b"),
    Shape("CONTENTFUL_TOKEN", rf"\bCFPAT-{_URL}{{40,48}}"),
    Shape("HEROKU_API_KEY", rf"\bHRKU-{_URL}{{58,62}}"),
    Shape("FLY_TOKEN", rf"\bfo1_[A-Za-z0-9_-]{{43}}\b|\bfm[12][ar]?_{_B64}{{100,}}={{0,3}}", mixed=True),
    Shape("DATABRICKS_TOKEN", r"\bdapi[0-9a-f]{32}(?:-\d)?\b"),
    Shape("PLANETSCALE_TOKEN", r"\bpscale_(?:tkn|pw|oauth)_[A-Za-z0-9_.=-]{32,64}"),
    Shape("SUPABASE_TOKEN", r"\bsbp_[0-9a-f]{40}\b"),
    Shape("SCALINGO_TOKEN", rf"\btk-us-{_URL}{{48}}"),
    Shape("TAILSCALE_KEY", r"\btskey-[a-z]{3,12}-[A-Za-z0-9]{6,24}-[A-Za-z0-9]{16,48}\b"),
    Shape("DYNATRACE_TOKEN", r"\bdt0[a-z]\d\d\.[A-Z0-9]{24}\.[A-Z0-9]{64}\b"),
    Shape("VAULT_TOKEN", rf"\bhv[sbr]\.{_URL}{{24,}}"),
    Shape("VAULT_TOKEN", r"\bs\.[A-Za-z0-9]{24}\b", mixed=True),
    Shape("TERRAFORM_TOKEN", rf"\b[A-Za-z0-9]{{14}}\.atlasv1\.{_URL}{{50,80}}"),
    Shape("CLICKHOUSE_KEY", r"\b4b1d[A-Za-z0-9]{38}\b", mixed=True),
    Shape("CONFLUENT_KEY", r"\bcflt[A-Za-z0-9+/]{40,64}\b"),
    # Code and packages
    Shape("GITHUB_TOKEN", r"\bgh[pousr]_[A-Za-z0-9]{30,}\b|\bgithub_pat_[A-Za-z0-9_]{22,}\b"),
    Shape("GITLAB_TOKEN", rf"\bgl(?:pat|dt|ft|oas|rt|rtr|soat|agent|imt|cbt|ptt|ffct|wt)-[A-Za-z0-9_.-]{{20,}}|\bGR1348941{_URL}{{20}}(?:[^A-Za-z0-9_-]|$)"),
    Shape("BITBUCKET_TOKEN", rf"\bATBB[A-Za-z0-9_=]{{24,40}}|\bATCTT3xFfG{_URL}{{60,}}"),
    Shape("ATLASSIAN_TOKEN", r"\bATATT3[A-Za-z0-9_=-]{60,}"),
    Shape("CRATES_TOKEN", r"\bcio[A-Za-z0-9]{32}\b", mixed=True),
    Shape("SONAR_TOKEN", r"\bsq[upa]_[0-9a-f]{40}\b"),
    Shape("NPM_TOKEN", r"\bnpm_[A-Za-z0-9]{36}\b"),
    Shape("PYPI_TOKEN", rf"\bpypi-AgE{_URL}{{40,}}"),
    Shape("RUBYGEMS_TOKEN", r"\brubygems_[0-9a-f]{48}\b"),
    Shape("NUGET_KEY", r"\boy2[a-z0-9]{43}\b"),
    Shape("CLOJARS_TOKEN", r"\bCLOJARS_[a-z0-9]{60}\b"),
    Shape("DOCKER_TOKEN", rf"\bdckr_(?:pat|oat)_{_URL}{{24,40}}"),
    Shape("ARTIFACTORY_TOKEN", r"\bAKC[a-zA-Z0-9]{60,80}\b|\bcmVmd[A-Za-z0-9]{55,64}\b"),
    Shape("OCTOPUS_KEY", r"\bAPI-[A-Z0-9]{24,28}\b"),
    Shape("SOURCEGRAPH_TOKEN", r"\bsgp_(?:[0-9a-fA-F]{16}_|local_)?[0-9a-fA-F]{40}\b"),
    Shape("BUILDKITE_TOKEN", r"\bbkua_[0-9a-f]{40}\b"),
    Shape("CIRCLECI_TOKEN", r"\bCCI(?:PAT|PRJ)_[A-Za-z0-9]{22}_[0-9a-f]{40}\b"),
    Shape("POSTMAN_KEY", r"\bPMAK-[0-9a-f]{24}-[0-9a-f]{34}\b"),
    Shape("PULUMI_TOKEN", r"\bpul-[0-9a-f]{40}\b"),
    Shape("INFRACOST_KEY", r"\bico-[A-Za-z0-9]{32}\b", mixed=True),
    Shape("SENTRY_TOKEN", r"\bsntrys_eyJ[A-Za-z0-9+/=_-]{80,}|\bsntryu_[0-9a-f]{64}\b"),
    Shape("GRAFANA_TOKEN", r"\bglc_eyJ[A-Za-z0-9+/]{28,}={0,3}|\bglsa_[A-Za-z0-9]{32}_[0-9a-fA-F]{8}\b|\beyJrIjoi[A-Za-z0-9+/]{40,}={0,2}"),
    Shape("NEW_RELIC_KEY", r"\bNR(?:AK|II|RA)-[A-Za-z0-9_-]{26,42}\b"),
    Shape("OPENSHIFT_TOKEN", rf"\bsha256~{_URL}{{43}}(?:[^A-Za-z0-9_-]|$)", mixed=True),
    Shape("DOPPLER_TOKEN", r"\bdp\.(?:pt|st|ct|sa|scim|audit)\.[A-Za-z0-9._-]{40,60}"),
    # Messages, payments, products
    Shape("SLACK_TOKEN", r"\bxox[abeoprs]-(?:\d{1,2}-)?\d{5,14}-[A-Za-z0-9-]{10,}|\bxoxe(?:\.xox[bp])?-\d-[A-Za-z0-9]{60,}"),
    Shape("SLACK_APP_TOKEN", r"\bxapp-\d-[A-Z0-9]{8,14}-\d{8,16}-[a-f0-9]{32,80}\b"),
    Shape("SLACK_WEBHOOK", r"\bhooks\.slack\.com/(?:services|workflows|triggers)/[A-Za-z0-9+/]{30,}"),
    Shape("DISCORD_WEBHOOK", rf"\bdiscord(?:app)?\.com/api/webhooks/\d{{15,20}}/{_URL}{{50,80}}"),
    Shape("DISCORD_TOKEN", rf"\b[MNO][A-Za-z0-9_-]{{23,25}}\.{_URL}{{6}}\.{_URL}{{27,38}}", mixed=True),
    Shape("TEAMS_WEBHOOK", r"\bwebhook\.office\.com/webhookb2/[0-9a-f-]{36}@[0-9a-f-]{36}/IncomingWebhook/[0-9a-f]{32}/[0-9a-f-]{36}"),
    Shape("TELEGRAM_TOKEN", rf"(?:\b|bot)(\d{{8,10}}:AA{_URL}{{33}})(?:[^A-Za-z0-9_-]|$)"),
    Shape("STRIPE_KEY", r"\b[sr]k_(?:live|test|prod)_[A-Za-z0-9]{14,}\b|\bwhsec_[A-Za-z0-9+/]{24,64}={0,2}"),
    Shape("SQUARE_TOKEN", rf"\bsq0(?:atp|csp|idp)-{_URL}{{22,43}}|\bEAAA{_URL}{{60}}(?:[^A-Za-z0-9_-]|$)", mixed=True),
    Shape("SHOPIFY_TOKEN", r"\bshp(?:at|ca|pa|ss)_[0-9a-fA-F]{32}\b"),
    Shape("TWILIO_KEY", r"\bSK[0-9a-f]{32}\b"),
    Shape("TWILIO_KEY", r"\bAC[0-9a-f]{32}[\"']?\s{0,3}[,:;]\s{0,3}[\"']?([0-9a-f]{32})\b"),
    Shape("BRAINTREE_TOKEN", r"\baccess_token\$(?:production|sandbox)\$[0-9a-z]{16}\$[0-9a-f]{32}\b"),
    Shape("HUBSPOT_TOKEN", rf"\bpat-(?:na|eu|ap)\d-{_UUID}\b"),
    Shape("LINKEDIN_SECRET", r"\bWPL_AP\d\.[A-Za-z0-9]{12,20}\.[A-Za-z0-9+/]{4,12}={0,2}"),
    Shape("ASANA_TOKEN", r"\b[12]/\d{12,17}(?:/\d{12,17})?:[0-9a-f]{32}\b"),
    Shape("TWITTER_TOKEN", r"\bA{18,}[A-Za-z0-9%]{50,}", sample=False),
    Shape("DROPBOX_TOKEN", rf"\bsl\.(?:u\.)?{_URL}{{100,}}"),
    Shape("LARAVEL_KEY", rf"\bbase64:{_B64}{{43}}="),
    Shape("OKTA_TOKEN", rf"(?i)\bokta[^\n]{{0,60}}?\n?[^\n]{{0,40}}?[^A-Za-z0-9_-](00{_URL}{{40}})(?:[^A-Za-z0-9_-]|$)", mixed=True),
    Shape("SENDGRID_KEY", rf"\bSG\.{_URL}{{16,32}}\.{_URL}{{32,64}}"),
    Shape("MAILGUN_KEY", r"\bkey-[0-9a-f]{32}\b|\b[0-9a-f]{32}-[0-9a-f]{8}-[0-9a-f]{8}\b"),
    Shape("MAILCHIMP_KEY", r"\b[0-9a-f]{32}-us\d{1,2}\b"),
    Shape("RESEND_KEY", r"\bre_[A-Za-z0-9]{8}_[A-Za-z0-9]{20,28}\b", mixed=True),
    Shape("BREVO_KEY", r"\bxkeysib-[0-9a-f]{64}-[A-Za-z0-9]{16}\b"),
    Shape("EASYPOST_KEY", r"\bEZ[AT]K[A-Za-z0-9]{54}\b"),
    Shape("SHIPPO_TOKEN", r"\bshippo_(?:live|test)_[0-9a-f]{40}\b"),
    Shape("FACEBOOK_TOKEN", rf"\bEAA[A-Za-z0-9]{{90,}}\b|\b\d{{15,16}}\|{_URL}{{26,40}}", mixed=True),
    Shape("AIRTABLE_TOKEN", r"\bpat[A-Za-z0-9]{14}\.[0-9a-f]{64}\b"),
    Shape("NOTION_TOKEN", r"\bntn_\d{11}[A-Za-z0-9]{35}\b|\bsecret_[A-Za-z0-9]{43}\b", mixed=True),
    Shape("LINEAR_KEY", r"\blin_(?:api|oauth)_[A-Za-z0-9]{32,64}\b"),
    Shape("FIGMA_TOKEN", rf"\bfigd_{_URL}{{38,64}}"),
    Shape("MAPBOX_TOKEN", rf"\bsk\.eyJ{_URL}{{40,}}\.{_URL}{{20,40}}"),
    Shape("TYPEFORM_TOKEN", r"\btfp_[A-Za-z0-9_.-]{40,64}"),
    Shape("NETLIFY_TOKEN", r"\bnfp_[A-Za-z0-9]{36}\b"),
    Shape("POSTHOG_KEY", r"\bph[xc]_[A-Za-z0-9]{40,50}\b", mixed=True),
    Shape("ONEPASSWORD_TOKEN", r"\bops_eyJ[A-Za-z0-9+/_-]{100,}={0,3}"),
    Shape("ONEPASSWORD_SECRET_KEY", r"\bA3-[A-Z0-9]{6}-(?:[A-Z0-9]{11}|[A-Z0-9]{6}-[A-Z0-9]{5}|[A-Z0-9]{6}-[A-Z0-9]{4})-[A-Z0-9]{5}-[A-Z0-9]{5}-[A-Z0-9]{5}\b"),
    Shape("MAXMIND_KEY", r"\b[A-Za-z0-9]{6}_[A-Za-z0-9]{29}_mmk\b"),
    Shape("INTRA42_SECRET", r"\bs-s4t2(?:ud|af)-[0-9a-f]{64}\b"),
    Shape("OKTA_TOKEN", rf"(?i)(?:^|[^A-Za-z])okta{_NAME}{_IS}(00[A-Za-z0-9_-]{{40}})(?:[^A-Za-z0-9_-]|$)", mixed=True),
    Shape("SUMOLOGIC_ID", rf"(?i)\b{_NAME}sumo{_NAME}access_?id{_IS}(su[A-Za-z0-9]{{12}})\b"),
    Shape("NAMED_KEY", rf"(?i)\b(?:snyk|heroku|hubspot|messagebird|sonar|sonarqube|datadog|pagerduty|circleci|cloudflare|netlify|okta|zendesk|intercom|bitbucket)[A-Za-z0-9_. -]{{0,20}}{_IS}({_UUID})\b", 0.85),
    Shape("NAMED_KEY", rf"(?i)\b(?:sonar|sonarqube|sourcegraph|datadog|fastly|segment|codecov|gitea|jenkins|travis|meraki)[A-Za-z0-9_. -]{{0,20}}{_IS}((?:sq[upa]_)?[0-9a-f]{{40}}|(?:sq[upa]_)?[0-9A-Z]{{40}})\b", 0.85),
    # Formats
    Shape("JWT", rf"\beyJ{_URL}{{10,}}\.eyJ{_URL}{{8,}}\.{_URL}*={{0,2}}|\beyJ{_URL}{{10,}}\.{_URL}*\.{_URL}{{8,}}\.{_URL}{{8,}}\.{_URL}{{8,}}", 0.9, sample=False),
    Shape("AGE_SECRET_KEY", r"\bAGE-SECRET-KEY-1[QPZRY9X8GF2TVDW0S3JN54KHCE6MUA7L]{58}\b", sample=False),
    Shape("PUTTY_KEY", r"\bPuTTY-User-Key-File-\d: [a-z0-9-]{5,30}"),
    Shape("NPMRC_TOKEN", r"(?i)\b_auth(?:Token)?(?:\s{0,2}=\s{0,2}|\s)[\"']?([A-Za-z0-9+/=_.-]{16,})"),
    Shape("PGPASS_PASSWORD", r"(?m)^[A-Za-z0-9.*_-]{1,80}:(?:\d{2,5}|\*):[A-Za-z0-9.*_-]{1,64}:[A-Za-z0-9.@_-]{1,64}:([^\s:]{6,80})\r?$", 0.85),
    Shape("PASSWORD_HASH", r"(?m)^[A-Za-z0-9._-]{1,32}:(\$(?:apr1|[1567y]|2[abxy])\$[^\s:]{20,})", 0.85),
    Shape("WORDPRESS_SALT", r"(?i)define\(\s{0,3}['\"](?:AUTH|SECURE_AUTH|LOGGED_IN|NONCE)_(?:KEY|SALT)['\"]\s{0,3},\s{0,12}'([^'\n]{40,})'"),
    Shape("SEED_PHRASE", r"(?i)\b(?:seed|recovery|mnemonic|backup|wallet)[ _-]{0,2}(?:phrase|words?|mnemonic)?[^\n]{0,40}?\b((?:[a-z]{3,8}[ ,]{1,2}){11,23}[a-z]{3,8})\b"),
    Shape("WALLET_KEY", r"(?i)\b(?:private|wallet|signing|deployer|validator|eth(?:ereum)?)[ _-]{0,2}(?:private[ _-]?)?key[^\n]{0,60}?[^A-Za-z0-9]((?:0x)?[0-9a-f]{64})(?:[^0-9A-Za-z]|$)"),
    Shape("SESSION_COOKIE", r"(?i)(?:\bcookie:?|\s-b)[^\n]{0,80}?\b(?:phpsessid|jsessionid|asp\.net_sessionid|session_?id|_?session|connect\.sid|sid|auth_?token|remember_token)=([A-Za-z0-9%_.:+/-]{16,})"),
    Shape("JOIN_TOKEN", r"(?i)\btoken[ =:]{1,3}([a-z0-9]{6}\.[a-z0-9]{16})\b"),
    Shape("MASTER_KEY", r"\b(?:master|credentials)\.key\s{0,3}\n\s{0,3}([0-9a-f]{32})\b"),
    Shape("WIREGUARD_KEY", rf"\b(?:wg genkey\s{{0,3}}\n|PrivateKey\s{{0,3}}=\s{{0,3}})({_B64}{{43}}=)"),
    Shape("NETRC_PASSWORD", r"\bmachine\s+[A-Za-z0-9._-]+\s+login\s+\S+\s+password\s+(\S{4,})", 0.9),
    Shape("KUBE_CONFIG_KEY", rf"\bclient-key-data:\s{{0,3}}[\"']?({_B64}{{40,}}={{0,2}})"),
    Shape("DOCKER_AUTH", rf"\"auth\"\s{{0,3}}:\s{{0,3}}\"({_B64}{{12,}}={{0,2}})\"", 0.85),
    Shape("CONFIG_PASSWORD", r"(?i)\bkey=\"[A-Za-z]{0,12}password\"\s+value=\"([^\"<>${}%\s]{6,})\"", 0.75),
    # Commands and headers
    Shape("COMMAND_PASSWORD", r"\bsshpass\s{1,3}-p\s{0,2}[\"']?([^\s\"']{4,})", 0.8),
    Shape("COMMAND_PASSWORD", r"\bsecret set\b[^\n]{0,80}?\s(?:--body|-b)[ =][\"']?([^\s\"'<>$]{6,})", 0.8),
    Shape("COMMAND_PASSWORD", r"\b(?:add_user|change_password|net user)\s{1,2}[A-Za-z0-9._-]{1,32}\s{1,2}([^\s\"'/<>$-][^\s\"'<>]{5,})", 0.75),
    Shape("COMMAND_PASSWORD", r"\s-U\s{0,2}[A-Za-z0-9._\\-]{1,32}%([^\s\"'<>$%]{4,})", 0.75),
    Shape("COMMAND_PASSWORD", r"\becho\s{1,2}[\"']?[A-Za-z0-9._-]{1,32}:([^\s\"'<>$]{4,})[\"']?\s{0,2}\|\s{0,2}(?:sudo\s{1,2})?chpasswd", 0.85),
    Shape("LOGIN_PASSWORD", r"(?i)\b(?:login|getconnection|connect|authenticate)\(\s{0,3}(?:[\"'][^\"'\n]{0,120}[\"'],\s{0,3})?[\"'][^\"'\n]{1,64}[\"'],\s{0,3}[\"']([^\s\"']{6,})[\"']\s{0,3}\)", 0.75),
    Shape("LOGIN_PASSWORD", r"(?i)\bConvertTo-SecureString\s{1,3}(?:-String\s{1,3})?[\"']([^\s\"'$]{4,})[\"']", 0.8),
    Shape("LOGIN_PASSWORD", r"\b(?:user|username|login)[\"']?\s{0,2}:\s{0,2}[\"'][^\"'\n]{1,64}[\"'],\s{0,12}[\"']?pass[\"']?\s{0,2}:\s{0,2}[\"']([^\s\"'$]{6,})[\"']", 0.8),
    Shape("COMMAND_PASSWORD", r"\b(?:mysql|mysqldump|mysqladmin|mysqlimport|mariadb|mariadb-dump)\b[^\n|;]{0,120}?\s-p([^\s\"'-][^\s\"']{3,})", 0.8),
    Shape("COMMAND_PASSWORD", r"\b(?:docker|podman|skopeo|oc|mongo|mongosh|mongodump|mongorestore|sqlcmd|ldapsearch|ldapmodify|snowsql|smbclient|redis-cli|htpasswd|helm|influx)\b[^\n|;]{0,160}?\s(?:-p|-w|-P|-a)\s{1,2}[\"']?([^\s\"'-][^\s\"']{4,})", 0.75),
    Shape("COMMAND_PASSWORD", r"(?i)\s--(?:auth-|admin-|db-|user-|client-|root-|registry-|master-|http-|proxy-|ssh-|api-|access-|bot-|personal-)?(?:password|passwd|passphrase|pass|token|secret|secret-key|api-?key|access-key|auth-key)\s{1,2}[\"']?([^\s\"'<>$\-][^\s\"'<>]{5,})", 0.75),
    Shape("COMMAND_PASSWORD", r"(?i)\bset\s{1,2}[\"']?[a-z0-9_.:/-]{0,60}(?:password|passwd|token|secret|api_?key|access_?key)[a-z0-9_.-]{0,12}[\"']?\s{1,2}[\"']?([^\s\"'<>$=\-][^\s\"'<>]{7,})", 0.75),
    Shape("BASIC_AUTH", rf"(?i)\bauthorization[\"'\])]{{0,3}}\s{{0,3}}[:=, ]\s{{0,3}}[\"'\[]{{0,2}}basic\s{{1,3}}({_B64}{{8,}}={{0,2}})", 0.85),
    Shape("AUTH_HEADER", r"(?i)\bauthorization[\"'\])]{0,3}\s{0,3}[:=]\s{0,3}[\"'\[]{0,2}(?:(?:bearer|token|api-?token|apikey|key|jwt|flyv1)\s{1,3})?([A-Za-z0-9_.~+/=@|-]{14,})", 0.8),
    Shape("AUTH_HEADER", r"(?i)\bauthorization[\"'\])]{0,3}[, ]\s{0,3}[\"'\[]{0,2}(?:bearer|token)\s{1,3}([A-Za-z0-9_.~+/=@|-]{14,})", 0.8),
    Shape("AUTH_HEADER", r"(?i)(?:-H|--header)\s{1,3}[\"']?[A-Za-z-]{0,24}(?:token|api-?key|secret)\s{0,2}:\s{0,3}([A-Za-z0-9_.~+/=-]{10,})", 0.8),
    Shape("CURL_USER", r"(?:\s-u|\s--user)(?:\s{0,3}|=)[\"']{0,2}([^\s\"':]{0,64}[\"']?:[\"']?[^\s\"']{4,}|[^\s\"':]{8,64}:)", 0.8),
    Shape("URL_PASSWORD", r"\b[A-Za-z][A-Za-z0-9+.-]*://[^\s:/?#@'\"<>\[\]{}]{0,}:([^\s@/'\"<>]{3,})@[A-Za-z0-9\[_$.-]", 0.85),
)  # fmt: skip

# A name that announces a secret, what joins it to its value, and the value.
PASSWORDS = r"pass(?:word|wd|phrase|code)|passwort|kennwort|wachtwoord|contrasena|senha|haslo|mot de passe|pwd|[_.-]pass"
KEY_NAMES = (
    r"secret|token|credentials?|"
    r"(?:api|app|access|auth|account|private|secret|signing|encryption|master|service|storage|shared|client|consumer|"
    r"webhook|license|admin|deploy|ssh|session|jwt|hmac|root)[_. -]?key|(?:user|basic|proxy|http)[_. -]?auth|apikey|[ _]pat"
)
_CLOSED = r"[\"'`\])]{0,3}"
_JOINED = "|".join(
    (
        rf"{_CLOSED}\s{{0,12}}(?:[:?]{{1,3}}=>?|:|,)\s{{0,12}}",
        rf"{_CLOSED}[ \t]{{0,12}}(?:=>?|[;|>])[ \t]{{0,12}}",
        rf"{_CLOSED},?\s{{1,16}}[\"']?(?:value|text)[\"']?\s{{0,3}}[:=]\s{{0,3}}",
        r"\s{0,2}:?\s{0,2}(?:&(?:'static )?str|string|str)\s{0,2}=\s{0,2}",
        r"\s{1,2}is\s{1,12}",
    )
)
_NAMED = rf"(?i)(?:{PASSWORDS}|{KEY_NAMES})[A-Za-z0-9_.-]{{0,24}}"
_OPENED = r"(?:\\?[\"'`(]|[bruf][\"']|Basic |Bearer ){0,3}"
_VALUE = r"[^\s\"'`<>,;\\]{6,}"
ASSIGNMENT = rf"{_NAMED}(?:{_JOINED})(?:default\s{{0,2}}=\s{{0,2}})?{_OPENED}({_VALUE})"
_SAID = r"is|was|to|lautet|ist|war|est|es|vale|valia|era|to be"
SPACED = rf"{_NAMED}{_CLOSED}\s{{1,2}}(?:(?:{_SAID})\s{{1,2}})?{_OPENED}({_VALUE})"
"""A value that follows with no sign between: `IDENTIFIED BY PASSWORD 'x'`, `the password x`, `TOKEN was x`."""
_CREDENTIAL = rf"(?:{PASSWORDS}|{KEY_NAMES})"
FARTHER = (
    rf"(?i){_CREDENTIAL}\b[^\n:=\"`|;{{}}]{{1,60}}?(?:[:=]|\b(?:{_SAID}|e))\s{{1,12}}[\"'`(\[]?\s?({_VALUE})"
)
"""A value some words after the name: `token for staging: x`."""
_STRONG = r"[A-Za-z0-9][A-Za-z0-9_.+/~-]{14,}={0,2}"
BEFORE = rf"(?i)[\"'`(\[]\s?({_STRONG})\s?[\"'`)\]][^\n:={{}}\"`]{{1,60}}?{_CREDENTIAL}"
"""A value before its name: `` `x` is the deploy token``."""
ASSIGNED = "GENERIC_SECRET"
PEM = r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----"
ENCODED_PEM = r"\bLS0tLS1CRUdJTi[A-Za-z0-9+/]{40,}={0,2}"
KUBERNETES = r"(?im)^\s*kind:\s*[\"']?secret[\"']?\s*$"
