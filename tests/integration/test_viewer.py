"""The log in a browser, asked by a real client over a real socket."""

import html
import re
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import pytest

import mdap
from mdap.audit.review import review
from mdap.journal.claims import Claims
from mdap.viewer.wording import few
from mdap_hanoi import Hanoi
from tests.viewing import (
    ANSI,
    ECHO,
    HOSTILE_ID,
    LONG,
    SCRIPT,
    TEXTS,
    TOY,
    TURNED,
    Echo,
    Site,
    make_database,
    serving,
)

PLAIN, HARD, HOSTILE, PAIR, PART, POOR = range(1, 7)


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with runs of all kinds."""
    path = tmp_path_factory.mktemp("viewer") / "runs <b>.db"
    make_database(path)
    return path


@pytest.fixture(scope="module")
def site(database: Path) -> Iterator[Site]:
    """A viewer of it that may load the task of the hostile run."""
    with serving(database, (ECHO,)) as running:
        yield running


class Parts(HTMLParser):
    """The links, tags and attributes of a page, as a browser sees them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    @property
    def links(self) -> list[str]:
        """Where its links lead."""
        return [str(given["href"]) for tag, given in self.tags if tag == "a"]


def crawl(site: Site, most: int = 400) -> dict[str, str]:
    """Every page that can be reached from the first, by address."""
    pages: dict[str, str] = {}
    ahead = ["/"]
    while ahead:
        path = ahead.pop()
        if path in pages:
            continue
        assert len(pages) < most
        pages[path] = site.page(path) if not path.startswith("/texts/") else ""
        for link in Parts(pages[path]).links:
            there = urlsplit(urljoin(f"http://viewer{path}", link))
            assert there.netloc == "viewer", f"{path} leads elsewhere: {link}"
            ahead.append(there.path + (f"?{there.query}" if there.query else ""))
    return pages


@pytest.fixture(scope="module")
def pages(site: Site) -> dict[str, str]:
    """All pages but those of steps that nobody doubts."""
    return crawl(site)


@pytest.mark.slow
def test_every_link_leads_to_a_page(pages: dict[str, str]) -> None:
    """Whoever follows the links meets every kind of page, and no error."""
    kinds = {re.sub(r"\d+", "N", urlsplit(path).path) for path in pages}
    assert kinds == {
        "/",
        "/runs/N",
        "/runs/N/steps",
        "/runs/N/steps/N",
        "/runs/N/search",
        "/runs/N/events",
        "/runs/N/timeline",
        "/runs/N/tree",
        "/compare",
        "/texts/N",
    }


@pytest.mark.slow
def test_hostile_texts_are_shown_as_text(pages: dict[str, str]) -> None:
    """No text of the log makes an element, an attribute, a turn of direction or a control character."""
    for path, page in pages.items():
        for tag, given in Parts(page).tags:
            assert tag not in ("img", "b", "iframe", "object", "embed"), path
            assert tag != "script" or given == {"src": "/static/live.js", "defer": None}, path
            assert not [name for name in given if name.startswith("on") or name in ("style", "srcdoc")], path
            assert not str(given.get("href", "")).lower().startswith(("javascript:", "data:")), path
        assert not re.search(
            "[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\U000e0000-\U000e007f]", page
        ), path


@pytest.mark.parametrize("step", range(len(TEXTS)))
def test_a_reply_can_be_read_on_the_page_of_its_step(site: Site, step: int) -> None:
    """What a model said is there, with its hidden characters named."""
    page = site.page(f"/runs/{HOSTILE}/steps/{step}")
    seen = html.unescape(re.sub(r'<span class="hidden-character">(.*?)</span>', r"⟨\1⟩", page))
    text = TEXTS[step][:4000]
    for hidden in re.findall("[\x00-\x1f\u202e\u2066\u2069\U000e0041\U000e0042]", text):
        text = text.replace(hidden, f"⟨U+{ord(hidden):04X}⟩")
    assert text in seen
    assert "red flag: <b onclick=alert(2)>bold</b>" in html.unescape(page)


def test_a_huge_reply_does_not_make_a_huge_page(site: Site) -> None:
    """Five megabytes are cut on the page of the step, and there in full, as text and nothing else."""
    page = site.page(f"/runs/{HOSTILE}/steps/{TEXTS.index(LONG)}")
    assert len(page) < 100_000
    (link,) = {link for link in Parts(page).links if link.startswith("/texts/")}
    answer = site.ask(link)
    assert answer.text == LONG
    assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Content-Security-Policy"] == "sandbox"


def test_a_template_in_a_reply_is_not_carried_out(site: Site) -> None:
    """Model text is data to the template engine, too."""
    page = site.page(f"/runs/{HOSTILE}/steps/6")
    assert "{{ 7 * 7 }}" in page
    assert "49" not in re.findall(r"<pre[^>]*>(.*?)</pre>", page, re.DOTALL)


# --- who may ask for what


@pytest.mark.parametrize("path", ["/", "/runs/1", "/static/style.css", "/texts/1", "/nothing"])
@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "127.0.0.1", "127.0.0.1:1", "", "127.0.0.1.evil"]
)
def test_other_hosts_are_refused(site: Site, path: str, host: str) -> None:
    """A page whose name points to this machine reads nothing: its name is the Host."""
    answer = site.ask(path, Host=host)
    assert answer.status == 421
    assert b"run" not in answer.body


def test_our_own_hosts_are_let_in(site: Site) -> None:
    """Both names of the loopback work."""
    assert site.ask("/", Host=f"localhost:{site.port}").status == 200
    assert site.ask("/", Origin=site.url).status == 200


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "https://127.0.0.1:1"])
def test_other_origins_are_refused(site: Site, origin: str) -> None:
    """No page of another origin may ask."""
    assert site.ask("/", Origin=origin).status == 403


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"])
def test_nothing_but_reading_is_possible(site: Site, method: str) -> None:
    """Every method that could change something is refused."""
    for path in ("/", "/runs/1", "/static/style.css", "/nothing"):
        answer = site.ask(path, method)
        assert (answer.status, answer.headers["Allow"]) == (405, "GET, HEAD")


def test_head_answers_without_a_body(site: Site) -> None:
    """HEAD is GET without the page."""
    answer = site.ask("/runs/1", "HEAD")
    assert (answer.status, answer.body) == (200, b"")


@pytest.mark.parametrize(
    "path",
    [
        "/static/../../../../etc/passwd",
        "/static/..%2f..%2f..%2fetc%2fpasswd",
        "/static/%2e%2e/looks.py",
        "/static/..%5c..%5clooks.py",
        "/static//etc/passwd",
        "/static/",
        "/static/../templates/base.html",
        "/etc/passwd",
        "//etc/passwd",
        "/texts/../static/style.css",
    ],
)
def test_no_other_file_can_be_had(site: Site, path: str) -> None:
    """Three files are served, and no path leads to a fourth."""
    assert site.ask(path).status == 404


@pytest.mark.parametrize(
    "path", ["/", "/runs/1", "/static/style.css", "/static/live.js", "/nothing", "/runs/99"]
)
def test_every_answer_carries_the_headers(site: Site, path: str) -> None:
    """No page may run foreign or inline code, be framed, or tell others where it was."""
    headers = site.ask(path).headers
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert headers["Server"] is None


@pytest.mark.parametrize(
    ("path", "status", "sentence"),
    [
        ("/runs/99", 404, "There is no such run in this database."),
        ("/runs/1/steps/999999", 404, "The run has no such step yet."),
        ("/texts/999999", 404, "There is no such text in this database."),
        ("/runs/1/steps?from=-1", 400, "from must be a whole number from 0 on."),
        ("/runs/1/steps?from=%D9%A3", 400, "from must be a whole number from 0 on."),
        ("/runs/1/steps?from=99999999999999999999999", 400, "from must be a whole number from 0 on."),
        (
            "/runs/1/steps?show=%3Cb%3E",
            400,
            "show must be one of all, undecided, divided, flagged, overridden.",
        ),
        ("/runs/1/search?q=" + "x" * 201, 400, "Search for 200 characters at most."),
        ("/runs/99999999999999999999", 404, "There is no such page."),
        ("/runs/1/steps/99999999999999999999", 404, "There is no such page."),
    ],
)
def test_wrong_addresses_get_a_sentence(site: Site, path: str, status: int, sentence: str) -> None:
    """An error is a page with one sentence, never a traceback."""
    answer = site.ask(path)
    assert answer.status == status
    assert sentence in html.unescape(answer.text)
    assert "Traceback" not in answer.text


def test_an_error_of_ours_is_a_page_with_the_headers(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sentence, and no traceback on the page or in the terminal."""

    def fails(run: object, summary: object) -> None:
        raise ZeroDivisionError("<b>nothing</b>")

    monkeypatch.setattr("mdap.viewer.pages.verdicts", fails)
    answer = site.ask("/runs/1")
    assert answer.status == 500
    assert "Unexpected ZeroDivisionError: <b>nothing</b>. This is a bug of mdap." in html.unescape(
        answer.text
    )
    assert "<b>nothing" not in answer.text
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]


# --- what is shown


def test_the_database_is_not_touched(database: Path, site: Site) -> None:
    """Looking changes no byte, and leaves no transaction open that would hold up a checkpoint."""
    before = database.read_bytes()
    for path in ("/", "/runs/1", "/runs/1/steps?show=divided", "/runs/1/search?q=disk", "/runs/3/steps/7"):
        site.page(path)
    assert database.read_bytes() == before
    with closing(sqlite3.connect(database)) as writer:
        busy, left, done = writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    assert (busy, left, done) == (0, 0, 0)


def test_the_numbers_are_those_of_the_log(database: Path, site: Site) -> None:
    """The overview says what the view of totals says."""
    page = site.page(f"/runs/{PLAIN}")
    shown = dict(re.findall(r"<dt>([^<]*)</dt>\s*<dd>([\d,]+)", page))
    with closing(sqlite3.connect(database)) as connection:
        connection.row_factory = sqlite3.Row
        totals = connection.execute("SELECT * FROM run_totals WHERE run = 1").fetchone()
        against = connection.execute(
            "SELECT sum((SELECT sum(value) FROM json_each(tally)) - votes) FROM decisions WHERE run = 1"
        ).fetchone()[0]
        divided = connection.execute(
            "SELECT count(*) FROM decisions WHERE run = 1 AND (SELECT count(*) FROM json_each(tally)) > 1"
        ).fetchone()[0]
    expected = {
        "Steps decided": totals["steps"],
        "Samples": totals["samples"],
        "Votes": totals["votes"],
        "Red flags": totals["red_flags"],
        "Votes against the winner": against,
        "Divided steps": divided,
        "Tokens": totals["input_tokens"] + totals["output_tokens"],
    }
    assert against > 0
    assert {name: int(shown[name].replace(",", "")) for name in expected} == expected


def test_the_cost_is_that_of_the_prices(database: Path, site: Site) -> None:
    """Tokens times prices, as the run was told them: USD 1 and 2 a million."""
    with closing(sqlite3.connect(database)) as connection:
        given, made = connection.execute(
            "SELECT sum(input_tokens), sum(output_tokens) FROM samples WHERE run = ?", (POOR,)
        ).fetchone()
    assert f"${(given + 2 * made) / 1e6:.3g}" in site.page(f"/runs/{POOR}")


def listed(site: Site, run: int, kind: str) -> list[int]:
    """The steps of a kind, over all pages of the list."""
    steps: list[int] = []
    query = f"?show={kind}"
    while query:
        page = site.page(f"/runs/{run}/steps{query}")
        steps += [
            int(step) for step in re.findall(rf'<th scope="row"><a href="/runs/{run}/steps/(\d+)"', page)
        ]
        following = re.search(r'<a href="(\?[^"]*)" rel="next"', page)
        query = html.unescape(following[1]) if following else ""
    return steps


@pytest.mark.parametrize(
    ("run", "kind", "sql"),
    [
        (PLAIN, "all", "SELECT DISTINCT step FROM steps WHERE run = ?"),
        (PLAIN, "divided", "SELECT step FROM decisions WHERE run = ? AND votes > margin"),
        (PLAIN, "flagged", "SELECT DISTINCT step FROM samples WHERE run = ? AND verdict = 'flag'"),
        (HARD, "overridden", "SELECT step FROM decisions WHERE run = ? AND author IS NOT NULL"),
        (
            POOR,
            "undecided",
            "SELECT step FROM steps WHERE run = ? EXCEPT SELECT step FROM decisions WHERE run = 6",
        ),
        (
            PAIR,
            "undecided",
            "SELECT step FROM steps WHERE run = ? EXCEPT SELECT step FROM decisions WHERE run = 4",
        ),
    ],
)
def test_a_filter_finds_all_steps_of_its_kind(
    database: Path, site: Site, run: int, kind: str, sql: str
) -> None:
    """Page after page, the list has exactly what a query over the whole log finds."""
    with closing(sqlite3.connect(database)) as connection:
        expected = sorted(step for (step,) in connection.execute(sql, (run,)))
    assert expected or run == PAIR
    assert listed(site, run, kind) == expected


def test_a_search_finds_what_is_there(site: Site) -> None:
    """A part of a reply leads to its step, letters large or small, and wildcards are letters too."""
    page = site.page(f"/runs/{HOSTILE}/search?q=DOCUMENT.title")
    assert re.findall(r'href="/runs/3/steps/(\d+)#', page) == ["0", "1"]
    assert "Nothing found." in site.page(f"/runs/{HOSTILE}/search?q=docu%25title")
    assert "Nothing found." in site.page(f"/runs/{HOSTILE}/search?q=document_title")


def test_words_searched_for_are_shown_as_text(site: Site) -> None:
    """The query itself is as hostile as a reply."""
    page = site.page("/runs/1/search?q=%22%3E%3Cscript%3Ealert(9)%3C/script%3E")
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(9)" in page


def test_a_step_says_how_doubtful_it_is(database: Path, site: Site) -> None:
    """As `mdap audit review` has it, in the list and on its own page; none where a person decided."""
    found = {one.step: one.doubt for one in review(database, "plain", 1000)}
    step, doubt = max(found.items(), key=lambda pair: (pair[1] or 0, -pair[0]))
    assert doubt is not None
    assert f"Wrong with a chance of {few(doubt)}" in html.unescape(site.page(f"/runs/{PLAIN}/steps/{step}"))
    listed = html.unescape(site.page(f"/runs/{PLAIN}/steps?from={step}"))
    assert f'<td class="nowrap" data-label="Doubt">{few(doubt)}</td>' in listed
    assert "Wrong with a chance" not in site.page(f"/runs/{HARD}/steps/0")


def test_a_settled_step_names_the_person_and_the_reason(site: Site) -> None:
    """What a person decided is told apart from a vote."""
    page = html.unescape(site.page(f"/runs/{HARD}/steps/0"))
    assert "Settled by ada <b>" in page
    assert f"I checked {SCRIPT}" in page
    assert "overridden" in page


def test_the_prompt_is_made_anew_and_compared(site: Site) -> None:
    """An installed task, and one that the person has named, show what was asked."""
    for run in (PLAIN, HOSTILE):
        page = site.page(f"/runs/{run}/steps/0")
        assert "its digest is the recorded one" in page
    assert f"0: {SCRIPT}" in html.unescape(site.page(f"/runs/{HOSTILE}/steps/0"))


def test_the_recorded_prompts_of_a_process_are_shown(site: Site) -> None:
    """Without its task's code, since they are in the log; what was not voted on asked nothing."""
    page = site.page(f"/runs/{PAIR}/steps/1")
    assert "As it was sent; its digest matches." in page
    assert "question 1" in page
    assert "At most 750 output tokens." in page
    assert "no model was asked" in site.page(f"/runs/{PAIR}/steps/2")


def test_a_recorded_prompt_is_text_and_a_changed_one_is_called_changed(tmp_path: Path) -> None:
    """Markup and hidden characters in it stay text; and its digest is looked at."""
    db = tmp_path / "a.db"
    mdap.solve_sync(Echo(steps=1), model=TOY, db=db, record_prompts=True)
    with serving(db) as running:
        page = running.page("/runs/1/steps/0")
    assert "As it was sent; its digest matches." in page
    assert f"0: {SCRIPT}" in html.unescape(page)
    assert SCRIPT not in page
    assert TURNED not in page
    with closing(sqlite3.connect(db)) as connection, connection:
        connection.execute("DROP TRIGGER texts_no_update")
        connection.execute("UPDATE texts SET body = 'no' WHERE body LIKE '0: %'")
    with serving(db) as running:
        assert "The recorded prompt does not match its digest" in running.page("/runs/1/steps/0")


def test_a_stranger_s_task_is_not_loaded(database: Path) -> None:
    """A database names its tasks, and loading one runs it: nobody has asked for that."""
    with serving(database) as running:
        page = running.page(f"/runs/{HOSTILE}/steps/0")
    assert "is not installed; to load it, add --task tests.viewing:Echo" in page


def test_a_part_leads_to_the_whole_and_back(site: Site) -> None:
    """Runs are a tree: the list has its roots, and each page its parts."""
    assert f'href="/runs/{PART}"' not in site.page("/")
    assert f'href="/runs/{PART}"' in site.page(f"/runs/{PAIR}")
    assert f'href="/runs/{PAIR}"' in site.page(f"/runs/{PART}")


def test_a_result_without_a_vote_is_no_person_s(site: Site) -> None:
    """What a nested task came to is noted, and neither a race nor settled."""
    page = site.page(f"/runs/{PAIR}/steps")
    assert re.findall(r'<span class="pill pill-(\w+)">', page)[1:] == ["unanimous", "unanimous", "noted"]
    assert "Recorded without a vote" in site.page(f"/runs/{PAIR}/steps/2")
    assert listed(site, PAIR, "overridden") == []
    assert re.search(r"Settled by a person</dt><dd>0<", site.page(f"/runs/{PAIR}"))


def test_names_that_nobody_vouches_for_are_text(site: Site) -> None:
    """Even the name of a run, and that of the database."""
    page = site.page("/")
    assert html.escape(HOSTILE_ID) in page
    assert "runs &lt;b&gt;.db" in page
    assert TURNED not in page
    assert ANSI not in page


def test_a_long_parameter_is_cut_in_lists_only(site: Site) -> None:
    """One line says which run it is; its settings say all of it."""
    listed, own = html.unescape(site.page("/")), html.unescape(site.page(f"/runs/{HOSTILE}"))
    assert f"{SCRIPT[:39]}…" in listed
    assert SCRIPT not in listed
    assert SCRIPT in own


def test_the_list_of_runs_goes_on(database: Path, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Page after page, every root is listed once, newest first."""
    monkeypatch.setattr("mdap.viewer.pages.RUNS", 2)
    seen: list[int] = []
    path: str | None = "/"
    while path:
        page = site.page(path)
        seen += [int(run) for run in re.findall(r'<th scope="row"><a href="/runs/(\d+)"', page)]
        following = re.search(r'<a href="([^"]*)" rel="next"', page)
        path = following[1] if following else None
    assert seen == [POOR, PAIR, HOSTILE, HARD, PLAIN]


@pytest.mark.skipif(sys.platform != "linux", reason="only there can a claim be looked at")
def test_a_run_is_running_as_long_as_a_process_is_at_work_on_it(tmp_path: Path) -> None:
    """A run whose end was never recorded is running while it is claimed, and killed when it is not."""
    path = tmp_path / "a.db"
    mdap.solve_sync(Hanoi(disks=2), db=path)
    with closing(sqlite3.connect(path)) as writer:
        writer.execute(
            "INSERT INTO runs(run_id, kind, task, task_version, params, settings, provider, k, mdap_version) "
            "SELECT 'cut', kind, task, task_version, params, settings, provider, k, mdap_version FROM runs"
        )
        writer.execute("INSERT INTO run_events(run, kind) VALUES (2, 'started')")
        writer.commit()
    claims = Claims(path)
    with serving(path) as site:
        claims.take(2, "cut")
        page = site.page("/runs/2")
        assert "pill-running" in page
        assert 'src="/static/live.js"' in page
        claims.close()
        page = site.page("/runs/2")
        assert "pill-killed" in page
        assert "live.js" not in page
        assert "pill-solved" in site.page("/runs/1")


def test_runs_that_are_parts_of_each_other_end_no_page(tmp_path: Path) -> None:
    """A database that was tampered with may hold a circle, and the pages must not go round in it."""
    path = tmp_path / "a.db"
    for run in ("one", "two"):
        mdap.solve_sync(Hanoi(disks=2), db=path, run_id=run)
    with closing(sqlite3.connect(path)) as tampering:
        tampering.execute("DROP TRIGGER runs_no_update")
        tampering.execute("UPDATE runs SET parent = 3 - id")
        tampering.commit()
    with serving(path) as site:
        assert "There are no runs here." in site.page("/")
        assert "pill-solved" in site.page("/runs/1")
