"""Which photos make a batch, and each process's share of it."""

from dataclasses import replace

import pytest

from wsss.errors import InputError
from wsss.train.loop import Schedule
from wsss.train.sampler import check_shares, epoch_batches

SCHEDULE = Schedule(epochs=2, batch_size=12, accumulation_steps=3, train_processes=2, seed=5)


def test_an_epoch_is_every_photo_once_in_an_order_of_its_own():
    whole = replace(SCHEDULE, batch_size=5, train_processes=1)
    batches = list(epoch_batches(10, whole))
    assert [len(batch) for batch in batches] == [5] * 4
    orders = [batches[0] + batches[1], batches[2] + batches[3]]
    for epoch, order in enumerate(orders):
        assert {epoch} == {key[0] for key in order}
        assert sorted(index for _, index in order) == list(range(10))
    assert [i for _, i in orders[0]] != [i for _, i in orders[1]] != list(range(10))
    assert list(epoch_batches(10, whole, start=3)) == batches[3:]


def test_shares_of_a_part_make_up_the_part_of_one_process():
    whole = list(epoch_batches(30, replace(SCHEDULE, train_processes=1)))
    shares = [list(epoch_batches(30, SCHEDULE, rank=rank)) for rank in range(2)]
    assert len(whole) == len(shares[0]) == len(shares[1]) == 4
    for batch, one, other in zip(whole, *shares, strict=True):
        assert len(one) == len(other) == 6
        for part in range(3):  # of 4 crops, of which each takes 2
            mine = [share[2 * part : 2 * part + 2] for share in (one, other)]
            assert mine[0] + mine[1] == batch[4 * part : 4 * part + 4]


@pytest.mark.parametrize(
    ("length", "size", "parts", "count", "message"),
    [
        (30, 12, 3, 3, r"train_processes 3: .* of 4 \+ 4 \+ 4 crops"),
        (30, 8, 3, 2, r"of 3 \+ 3 \+ 2 crops"),
        (5, 12, 1, 2, r"of 5 crops"),  # a data set smaller than a batch is one batch
        (30, 12, 1, 0, r"train_processes 0"),
    ],
)
def test_shares_that_would_be_unequal_are_refused(length, size, parts, count, message):
    schedule = Schedule(batch_size=size, accumulation_steps=parts, train_processes=count)
    with pytest.raises(InputError, match=message):
        check_shares(length, schedule)
    check_shares(length, replace(schedule, train_processes=1))
