"""What squeue says, read and put in words."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modeltainer.hpc.estimate import start_estimate
from modeltainer.hpc.queue import ALIVE, WAITING, JobStatus, explain_reason, parse_squeue
from modeltainer.scheduler import job_sight
from tests.hpc.recordings import VERSIONS, recorded


@pytest.fixture(params=VERSIONS)
def jobs(request: pytest.FixtureRequest) -> dict[str, JobStatus]:
    """What each version of Slurm said, by name; of an array, its running task."""
    read = parse_squeue(recorded(request.param, "squeue"))
    assert len(read) == 8
    return {job.name: job for job in read.values() if not job.job_id.endswith(("_1", "_2"))}


def test_real_answers(jobs: dict[str, JobStatus]) -> None:
    running = jobs["array"]
    assert running.job_id.endswith("_0")
    assert (running.state, running.nodes, running.partition) == ("RUNNING", ("c1",), "main")
    assert running.raw_id != running.job_id.partition("_")[0]
    assert running.end_unix is not None
    assert running.submit_unix is not None
    assert running.end_unix - running.submit_unix >= 600
    assert running.start_estimate_unix is None
    assert jobs["next"].start_estimate_unix is not None
    assert jobs["na|me x"].nodes == ("c2",)


def test_real_answers_in_words(jobs: dict[str, JobStatus]) -> None:
    assert "next in line" in jobs["next"].reason_text
    assert "held by you" in jobs["held"].reason_text
    assert jobs["done"].reason_text == "failed: ended with an error; see the log"
    assert jobs["stopped"].reason_text == "cancelled"
    assert jobs["array"].reason_text == ""


def test_sights(jobs: dict[str, JobStatus]) -> None:
    running, waiting, ended = (job_sight(jobs[one]) for one in ("na|me x", "held", "stopped"))
    assert (running.residence, running.node, running.reason) == ("running", "c2", "")
    assert running.ends_unix == jobs["na|me x"].end_unix
    assert waiting.residence == "pending"
    assert (ended.residence, ended.reason, ended.ends_unix) == ("gone", "cancelled", None)


@pytest.mark.parametrize("version", VERSIONS)
def test_pending_tasks_of_an_array_have_their_own_lines(version: str) -> None:
    read = parse_squeue(recorded(version, "squeue"))
    tasks = sorted(job_id.partition("_")[2] for job_id in read if "_" in job_id)
    assert tasks == ["0", "1", "2"]


@pytest.mark.parametrize("state", sorted(WAITING | ALIVE))
def test_nothing_alive_is_taken_for_gone(state: str) -> None:
    assert job_sight(JobStatus("1", state)).residence != "gone"


def test_an_estimate_in_the_past_is_none() -> None:
    job = JobStatus("1", "PENDING", start_estimate_unix=100.0)
    assert start_estimate(job, 99.0) == 100.0
    assert start_estimate(job, 101.0) is None


def test_a_range_of_pending_tasks_is_every_task() -> None:
    line = "7_[1-3,9%2]\x1f7\x1fPENDING\x1fPriority" + "\x1f" * 6
    assert list(parse_squeue(line)) == ["7_1", "7_2", "7_3", "7_9"]
    assert list(parse_squeue("7_[0-6:3]" + "\x1f7\x1fPENDING" + "\x1f" * 7)) == [
        "7_0",
        "7_3",
        "7_6",
    ]


@pytest.mark.parametrize(
    ("reason", "says"),
    [
        ("Resources", "next in line"),
        ("Priority", "ahead of it"),
        ("QOSMaxJobsPerUserLimit", "as many jobs as the QOS allows a user"),
        ("QOSMaxGRESPerUser", "as many GPUs as the QOS allows a user"),
        ("QOSMaxCpuPerUserLimit", "as many CPUs as the QOS"),
        ("QOSGrpGRES", "your group already uses as many GPUs as the QOS"),
        ("QOSGrpCpuLimit", "your group already uses as many CPUs as the QOS"),
        ("AssocGrpGRES", "your group already uses as many GPUs as the account"),
        ("AssocGrpCpuLimit", "your group already uses as many CPUs as the account"),
        ("AssocMaxJobsLimit", "as many jobs as the account"),
        ("AssocGrpGRESMinutes", "minutes"),
        ("AssocGrpCPUMinutesLimit", "minutes"),
        ("AssocGrpBillingMinutes", "minutes"),
        ("QOSMaxWallDurationPerJobLimit", "shorter --time"),
        ("QOSMinGRES", "asks for less GPU"),
        ("QOSMaxGRESPerJob", "allows one job"),
        ("PartitionTimeLimit", "shorter --time"),
        ("(Resources)", "next in line"),
        ("ReqNodeNotAvail, UnavailableNodes:c2", "(c2)"),
        ("ReqNodeNotAvail, Reserved for maintenance", "maintenance"),
        (
            "Nodes required for job are DOWN, DRAINED or reserved for jobs in higher priority "
            "partitions",
            "down, drained or reserved",
        ),
        (
            "Job's account not known, so it can't use this partition (vip allows special)",
            "(vip allows special)",
        ),
        ("launch failed requeued held", "held"),
        ("SomethingNew", "SomethingNew"),
    ],
)
def test_reasons_in_words(reason: str, says: str) -> None:
    assert says in explain_reason(reason)


def test_an_ended_job_says_how() -> None:
    assert JobStatus("1", "OUT_OF_MEMORY", "OutOfMemory").reason_text == (
        "used more memory than it had asked for"
    )
    assert JobStatus("1", "FAILED", "NonZeroExitCode").reason_text.startswith("failed: ")


WORDS = st.text(
    st.characters(blacklist_characters="\x1f\n", blacklist_categories=["Cs"]), max_size=12
)
TIMES = st.none() | st.integers(1, 2**33).map(float)


@given(
    st.dictionaries(
        st.integers(1, 10**9).map(str) | st.from_regex(r"[1-9]\d{0,8}_\d{1,5}", fullmatch=True),
        st.tuples(st.sampled_from(sorted(WAITING | ALIVE | {"FAILED"})), TIMES, TIMES, WORDS),
        max_size=5,
    )
)
def test_what_is_written_is_read(
    jobs: dict[str, tuple[str, float | None, float | None, str]],
) -> None:
    def shown(time: float | None) -> str:
        return "N/A" if time is None else str(int(time))

    text = "\n".join(
        "\x1f".join(
            [job, "1", state, "None", "n1", shown(start), shown(end), "N/A", "part", name + "\x1fx"]
        )
        for job, (state, start, end, name) in jobs.items()
    )
    read = parse_squeue(text)
    assert set(read) == set(jobs)
    for job, (state, start, end, name) in jobs.items():
        assert read[job].state == state
        assert read[job].end_unix == end
        assert read[job].start_estimate_unix == (start if state in WAITING else None)
        assert read[job].name == name + "\x1fx"


@given(st.text(max_size=80) | st.text(alphabet="\x1f\n_[]-,%0123456789PENDI", max_size=80))
def test_anything_is_read_without_error(text: str) -> None:
    for job in parse_squeue(text).values():
        assert job_sight(job).residence in {"pending", "running", "gone"}


@given(st.text(max_size=60) | st.from_regex(r"(QOS|Assoc)(Grp|Max|Min)?[A-Za-z]{0,20}"))
def test_every_reason_has_words(reason: str) -> None:
    assert isinstance(explain_reason(reason), str)
