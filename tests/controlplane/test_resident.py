"""How much memory a process holds, read off a /proc that a test wrote."""

from pathlib import Path

from gateway.controlplane.watch.resident import AGAIN_S, Resident


def process(proc: Path, pid: int, pages: int, *children: int) -> None:
    task = proc / str(pid) / "task" / str(pid)
    task.mkdir(parents=True, exist_ok=True)
    (proc / str(pid) / "statm").write_text(f"900 {pages} 3 1 0 9 0\n")
    (task / "children").write_text(" ".join(map(str, children)))


def test_the_memory_of_a_process_is_that_of_all_below_it(tmp_path: Path) -> None:
    process(tmp_path, 10, 1)
    page = Resident(tmp_path)(10) or 0
    process(tmp_path, 10, 5, 11, 12)
    process(tmp_path, 11, 7, 13)
    process(tmp_path, 13, 100)  # 12 has just ended
    assert Resident(tmp_path)(10) == 112 * page


def test_of_a_process_that_is_gone_nothing_is_known(tmp_path: Path) -> None:
    assert Resident(tmp_path)(10) is None


def test_it_is_looked_at_no_more_often_than_people_look(tmp_path: Path) -> None:
    now = [0.0]
    resident = Resident(tmp_path, lambda: now[0])
    process(tmp_path, 10, 1)
    first = resident(10)
    process(tmp_path, 10, 2)
    assert resident(10) == first
    now[0] = AGAIN_S
    assert resident(10) == 2 * (first or 0)
