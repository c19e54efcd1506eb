"""Group commit: who waits together, and what each of them gets."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

import pytest

from storage.group import GroupCommit


class Recorder:
    """Doubles every number, in batches that it records, each when the gate lets it through."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.threads: set[int] = set()
        self.gate = threading.Semaphore(0)
        self.begun = threading.Semaphore(0)

    def commit(self, jobs: Sequence[int]) -> list[int | BaseException]:
        """Take one batch; 13 is refused, 666 takes the whole batch down."""
        self.batches.append(list(jobs))
        self.threads.add(threading.get_ident())
        self.begun.release()
        self.gate.acquire()
        if 666 in jobs:
            raise ArithmeticError("the whole batch")
        return [ValueError("unlucky") if job == 13 else job * 2 for job in jobs]

    async def has_begun(self) -> None:
        """Wait until the thread has taken a batch."""
        await asyncio.to_thread(self.begun.acquire)


@pytest.fixture
def recorder() -> Recorder:
    """A recorder whose gate is shut."""
    return Recorder()


async def test_each_caller_gets_his_own_result(recorder: Recorder) -> None:
    """Results come back to those who handed in the jobs, all from one thread that is not the caller's."""
    recorder.gate.release(1000)
    group = GroupCommit(recorder.commit, name="test")
    assert await asyncio.gather(*(group.do(number) for number in range(14, 514))) == list(range(28, 1028, 2))
    assert sorted(number for batch in recorder.batches for number in batch) == list(range(14, 514))
    assert recorder.threads.isdisjoint({threading.get_ident()})
    assert len(recorder.threads) == 1
    await group.close()


async def test_those_who_wait_together_share_a_batch(recorder: Recorder) -> None:
    """What is handed in during one batch makes up the next, in order and up to the limit."""
    group = GroupCommit(recorder.commit, name="test", limit=4)
    first = asyncio.create_task(group.do(0))
    await recorder.has_begun()
    rest = [asyncio.create_task(group.do(number)) for number in range(1, 7)]
    await asyncio.sleep(0)
    recorder.gate.release(3)
    assert await asyncio.gather(first, *rest) == [0, 2, 4, 6, 8, 10, 12]
    assert recorder.batches == [[0], [1, 2, 3, 4], [5, 6]]
    await group.close()


async def test_one_refusal_is_for_one_caller(recorder: Recorder) -> None:
    """An exception among the outcomes reaches its caller alone."""
    group = GroupCommit(recorder.commit, name="test")
    first = asyncio.create_task(group.do(0))
    await recorder.has_begun()
    jobs = [asyncio.create_task(group.do(number)) for number in (12, 13, 14)]
    await asyncio.sleep(0)
    recorder.gate.release(2)
    one, other, third = await asyncio.gather(*jobs, return_exceptions=True)
    assert (one, third) == (24, 28)
    assert isinstance(other, ValueError)
    assert await first == 0
    await group.close()


async def test_a_batch_that_fails_fails_for_all_and_the_next_goes_on(recorder: Recorder) -> None:
    """If the commit raises, everyone in the batch is told, and the thread lives on."""
    group = GroupCommit(recorder.commit, name="test")
    first = asyncio.create_task(group.do(0))
    await recorder.has_begun()
    jobs = [asyncio.create_task(group.do(number)) for number in (1, 666, 2)]
    await asyncio.sleep(0)
    recorder.gate.release(3)
    for outcome in await asyncio.gather(*jobs, return_exceptions=True):
        assert isinstance(outcome, ArithmeticError)
    assert await first == 0
    assert await group.do(4) == 8
    await group.close()


@pytest.mark.parametrize("answer", [[], [1, 2]])
async def test_a_wrong_number_of_outcomes_is_an_error_for_all(answer: list[int]) -> None:
    """A commit that does not answer for each job fails the batch: nobody waits for ever."""
    group: GroupCommit[int, int] = GroupCommit(lambda jobs: answer, name="test")
    for _ in range(2):
        with pytest.raises(RuntimeError, match="outcomes"):
            await asyncio.wait_for(group.do(1), 60)
    await group.close()


async def test_a_cancelled_caller_leaves_the_rest_alone(recorder: Recorder) -> None:
    """A caller that goes away disturbs no other, and what was made for him is let go of."""
    discarded: list[int] = []
    group = GroupCommit(recorder.commit, name="test", discard=discarded.append)
    stays, goes, refused = (asyncio.create_task(group.do(number)) for number in (1, 2, 13))
    await recorder.has_begun()
    goes.cancel()
    refused.cancel()
    recorder.gate.release(10)
    assert await stays == 2
    await group.close()
    await asyncio.sleep(0)
    assert goes.cancelled()
    assert discarded == [4]


async def test_a_result_that_comes_too_late_is_let_go_of(recorder: Recorder) -> None:
    """A caller cancelled between the outcome and his waking up leaves nothing behind either."""
    discarded: list[int] = []
    group = GroupCommit(recorder.commit, name="test", discard=discarded.append)
    task = asyncio.create_task(group.do(1))
    await recorder.has_begun()
    recorder.gate.release()
    # The event loop stands still until the outcome is in its queue, before the cancellation is.
    await asyncio.sleep(0)
    group._thread.join(0.2)
    asyncio.get_running_loop().call_soon(task.cancel)
    with pytest.raises(asyncio.CancelledError):
        await task
    await group.close()
    await asyncio.sleep(0)
    assert discarded == [2]


async def test_close_carries_out_what_was_handed_in(recorder: Recorder) -> None:
    """Jobs handed in before the close are done; later ones are refused; closing again does no harm."""
    group = GroupCommit(recorder.commit, name="test", limit=2)
    jobs = [asyncio.create_task(group.do(number)) for number in range(5)]
    await asyncio.sleep(0)
    recorder.gate.release(100)
    await group.close()
    assert await asyncio.gather(*jobs) == [0, 2, 4, 6, 8]
    with pytest.raises(RuntimeError):
        await group.do(1)
    await group.close()


def test_serves_several_event_loops(recorder: Recorder) -> None:
    """Callers in different event loops share batches, and one whose loop has ended is passed over."""
    discarded: list[int] = []
    group = GroupCommit(recorder.commit, name="test", discard=discarded.append)

    async def give_up() -> None:
        task = asyncio.create_task(group.do(100))
        await recorder.has_begun()
        task.cancel()

    asyncio.run(give_up())
    recorder.gate.release(1000)

    async def work() -> list[int]:
        return await asyncio.gather(*(group.do(number) for number in range(14, 34)))

    got: list[list[int]] = []
    threads = [threading.Thread(target=lambda: got.append(asyncio.run(work()))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == [list(range(28, 68, 2))] * 4
    asyncio.run(group.close())
    assert discarded == [200]
