"""Secrets as issuers, clouds, command lines and sentences write them; and words like them that are none."""

import pytest

from supervisord.core.redact import HOME, PROMPT, REMOVED, SECRET, redact, redact_text

SIGNED = [
    "403 Client Error: Forbidden for url: https://cdn.example/repos/aa?Expires=17&Policy=ƛyJTdGF0ZW1lbnQiOlt7fV19__&Signature=ƛbcDEF~1-2&Key-Pair-Id=ƛ24J24Z295AEI9",
    "https://s3.example/m?X-Amz-Credential=ƛKIAIOSF%2F2024%2Fus-east-1&X-Amz-Security-Token=ƛwoG&X-Amz-Signature=ƛead&x=1",
    "https://storage.example/m?X-Goog-Credential=ƛ%40b&X-Goog-Signature=ƛ12",
    "https://bucket.blob.example/x?sv=2024&sig=ƛbCd%2BEf123%3D&se=2024-11-21&sp=r",
    "(https://bucket.blob.example/x?sig=ƛbCdEf123)",
    '{"url": "https://h/x?a=1\\u0026Signature=ƛb", "code": 403}',
    "AWSAccessKeyId: https://h/x?AWSAccessKeyId=ƛ&Signature=ƛ",
    "Authorization: AWS4-HMAC-SHA256 Credential=ƛ/2024, SignedHeaders=host, Signature=ƛead",
]


@pytest.mark.parametrize("line", SIGNED)
def test_signed_urls_lose_what_signs_them(line: str) -> None:
    told = str(redact_text(line).value)
    assert "ƛ" not in told, told
    assert REMOVED in told


def test_of_a_signed_url_the_rest_can_be_read() -> None:
    url = "https://bucket.blob.example/x?sv=2024&sig=bCdEf123&se=2024-11-21&sp=r"
    assert redact_text(url).value == f"https://bucket.blob.example/x?sv=2024&sig={REMOVED}&se=2024-11-21&sp=r"


WRITTEN = [
    "DB_PWD=ƛ", "pwd=ƛ", "Server=h;Uid=sa;Pwd=ƛ;", "MYSQL_PWD=ƛ", "PGPASS=ƛ", "PGPASSWORD=ƛ", "mysql user=foo;pass=ƛ",
    "dbPass=ƛ", "auth=ƛ", "x-auth: ƛ",
    "auth: ƛ", "--auth u:ƛ", "https://h/x?auth=ƛ", "PIN=ƛ", "user_pin: ƛ", "userPin=ƛ",
    "curl -u me:ƛ https://h", "curl --user 'me:ƛ' https://h", "curl --proxy-user=me:ƛ https://h", "OTP=ƛ", "jwt=ƛ",
    "AccountName=a;AccountKey=ƛ+/==;EndpointSuffix=b", "SharedAccessKey=ƛ", "my passcode: ƛ",
    "password ƛ", "password fooƛ, and more", "password is ƛ", "password is 'ƛ b'", "the passcode was \"ƛ b", "secret ƛ",
    "passphrase is ƛ bar", "passphrase ƛ bar", "passphrase 'ƛ bar'", "Invalid credentials for token ƛ",
    "secret key ƛ", "secret access key ƛ", "the API key is ƛ", "using api key ƛ", "hf token ƛ", "access token ƛ",
    "--api-key -ƛ", "--api-key -ƛ --port 1", "api_key => ƛ", "token == ƛ", "token := ƛ", '{\\"api_key\\": \\"ƛ b\\"}',
    '{\\"Authorization\\": \\"Bearer ƛ\\"}', "authorization: Digest username=\"bob\", response=\"ƛ\"",
    "https://user:pa/ƛ@host/x", "x" * 300 + "_token=ƛ",
]  # fmt: skip


@pytest.mark.parametrize("line", WRITTEN)
@pytest.mark.parametrize("secret", ["hunterƛtwo", "ƛ"])
def test_secrets_are_known_by_what_stands_before_them(line: str, secret: str) -> None:
    told = redact_text(line.replace("ƛ", secret))
    assert "ƛ" not in str(told.value), told.value
    assert told.removed.keys() == {SECRET}
    assert redact_text(str(told.value)).value == told.value


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("PIN=1234", f"PIN={REMOVED}"), ("pwd=1234", f"pwd={REMOVED}"), ("api_key=1234", f"api_key={REMOVED}"),
        ("password 1234", f"password {REMOVED}"), ("token is 8f14e45fceea", f"token is {REMOVED}"),
        ("key 8f14e45fceea.", f"key {REMOVED}."),
    ],
)  # fmt: skip
def test_figures_are_secrets_under_some_names(line: str, told: str) -> None:
    assert redact_text(line).value == told


ISSUED = [
    "sk_live_abcdef123", "rk_test_abcdef123", "whsec_abcdefgh12", "dckr_pat_abcdefghijk",
    "sk-proj-a_b-c9d8", "sk-ant-api03-x-y",
    "xoxp-1234567890-abc", "xoxe.xoxp-1-abcdefgh", "xapp-1-A0123-abc", "hooks.slack.com/services/T0/B0/abcdef",
    "glrt-abcdefgh1", "gldt-abcdefgh1", "glptt-abcdefgh12", "api_org_abcdefgh", "ya29.a0AfB_by-c1", "GOCSPX-abcdefgh",
    "ATATT3xFfGF0abcdef", "SG.abcdefg.hijklmn", "dop_v1_abcdef12", "hvs.abcdefghijklmnopqrstuv", "tskey-auth-abc123",
    "pypi-AgEIcHlwaS5vcmcCJGFi", "shpat_0123456789ab", "eyJhbGciOiJkaXIifQ..aXYxMjM0.Y2lwaGVy.dGFn",
]  # fmt: skip


@pytest.mark.parametrize("secret", ISSUED)
@pytest.mark.parametrize("around", ["{}", "failed with {}.", "'{}'", "x/{}, y", "({})"])
def test_tokens_are_known_by_their_issuers_prefixes(secret: str, around: str) -> None:
    told = redact_text(around.format(secret))
    assert (told.value, told.removed) == (around.format(REMOVED), {SECRET: 1})


def test_a_web_token_within_a_run_is_known() -> None:
    assert redact_text("x-eyJhbGciOiJI.eyJzdWIi.SflKxw-RJ").value == f"x-{REMOVED}"


READABLE = [
    "llama_model_loader: mmap pinned=1, --pin-memory true, pin_memory=True, spin=yes, pinned_memory: off",
    "bypass=on author=me compass: north authenticated: yes passes: three",
    "PWD=/srv/models OLDPWD=/srv",
    "docker run -u 1000:1000 --user 0:0 -p 8080:80 image",
    "journalctl -u systemd-oomd -u earlyoom: the log says so",
    "curl -u https://127.0.0.1:8080/v1/models",
    "password authentication failed for user",
    "a password is required; the secret file was not found; API key not set",
    "Invalid API key provided",
    "passphrase required for it",
    "error: key not found; missing key blk.0.attn_q.weight and key layers10abc.weight",
    "unknown token 151645, next key 7",
    "https://huggingface.example:443/org/model@main",
    "--api-key-file /etc/key --tokenizer-mode auto",
    "?policy=",
]  # fmt: skip


@pytest.mark.parametrize("line", READABLE)
def test_words_like_those_of_secrets_stay(line: str) -> None:
    told = redact_text(line)
    assert (told.value, told.removed) == (line, {})


@pytest.mark.parametrize(
    ("argv", "told", "removed"),
    [
        (["--api-key", "-x", "abc", "-c", "9"], ["--api-key", REMOVED, REMOVED, "-c", "9"], {SECRET: 2}),
        (["--api-key", "--port", "1"], ["--api-key", "--port", "1"], {}),
        (["--api-key", "1234"], ["--api-key", REMOVED], {SECRET: 1}),
        (["--max-tokens", "100", "-c", "9"], ["--max-tokens", "100", "-c", "9"], {}),
        (["curl", "-u", "me:pw", "-u", "name"], ["curl", "-u", REMOVED, "-u", "name"], {SECRET: 1}),
        (["--auth", "me:pw"], ["--auth", REMOVED], {SECRET: 1}),
        (["docker", "-u", "1000:1000", "-p", "80:8080"], ["docker", "-u", "1000:1000", "-p", "80:8080"], {}),
        (["-p", "my diary", "--port", "1"], ["-p", REMOVED, "--port", "1"], {PROMPT: 1}),
        (["--prompt", "-dashed", "-c", "1"], ["--prompt", REMOVED, "-c", "1"], {PROMPT: 1}),
        (["--system-prompt", "you are", "-sys", "x"], ["--system-prompt", REMOVED, "-sys", REMOVED], {PROMPT: 2}),
        (["--prompt", "--port", "1"], ["--prompt", "--port", "1"], {}),
        (["-p", "8080", "--prompt-cache", "/x"], ["-p", "8080", "--prompt-cache", "/x"], {}),
    ],
)
def test_an_argv_loses_what_follows_its_flags(argv: list[str], told: list[str], removed: dict[str, int]) -> None:
    assert (redact(argv).value, redact(argv).removed) == (told, removed)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("llama-cli --prompt hello world --port 1", f"llama-cli --prompt {REMOVED} --port 1"),
        ("llama-cli --system-prompt 'a --b c' -c 1", f"llama-cli --system-prompt {REMOVED} -c 1"),
        ('llama-cli --prompt="my diary" x', f"llama-cli --prompt={REMOVED}"),
        ('llama-cli -p "my diary" -c 1', f"llama-cli -p {REMOVED} -c 1"),
        ("llama-cli -sys diary", f"llama-cli -sys {REMOVED}"),
    ],
)
def test_prompts_of_a_command_line_in_one_text(line: str, told: str) -> None:
    assert (redact_text(line).value, redact_text(line).removed) == (told, {PROMPT: 1})
    assert redact_text("mkdir -p /srv/models").removed == {}


def test_members_by_their_whole_words() -> None:
    value = {"pwd": "a", "auth": "a", "userPin": 1234, "pin_memory": "on", "PWD": "/home/anna/x", "OLDPWD": "/x"}
    assert redact(value).value == {
        "pwd": REMOVED, "auth": REMOVED, "userPin": REMOVED, "pin_memory": "on", "PWD": "~/x", "OLDPWD": "/x",
    }  # fmt: skip
    assert redact(value).removed == {SECRET: 3, HOME: 1}


def test_a_private_key_over_many_lines_of_a_log() -> None:
    log = ["x -----BEGIN RSA PRIVATE KEY-----", "MIIEƛ", "abcƛ", "-----END RSA PRIVATE KEY----- y", "as it was"]
    told = redact(log)
    assert told.value == [f"x {REMOVED}", REMOVED, REMOVED, REMOVED, "as it was"]
    assert told.removed == {SECRET: 4}
    cut = ["-----BEGIN PRIVATE KEY-----", "MIIEƛ", "srv  update_slots: run slots completed", "as it was"]
    assert redact(cut).value == [REMOVED, REMOVED, *cut[2:]]
