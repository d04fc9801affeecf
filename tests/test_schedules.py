import math

import pytest

from training.schedules import SETTLED, gamma_at, is_eligible, learning_rate_at


@pytest.mark.parametrize("schedule", ["cosine", "linear", "exponential"])
def test_gamma_reaches_both_ends_and_only_rises(schedule):
    values = [gamma_at(epoch, 30, 1.0, 3.0, schedule) for epoch in range(30)]
    assert values[0] == 1.0 and values[-1] == 3.0
    assert all(before < after for before, after in zip(values, values[1:]))
    assert gamma_at(0, 1, 1.0, 3.0, schedule) == 3.0


def test_gamma_halfway():
    assert gamma_at(5, 11, 1.0, 3.0, "cosine") == pytest.approx(2.0)
    assert gamma_at(5, 11, 1.0, 3.0, "linear") == pytest.approx(2.0)
    assert gamma_at(5, 11, 1.0, 3.0, "exponential") == pytest.approx(math.sqrt(3))
    assert gamma_at(1, 11, 1.0, 3.0, "cosine") < gamma_at(1, 11, 1.0, 3.0, "linear")


def test_an_unknown_schedule_is_refused():
    with pytest.raises(ValueError, match="'step'"):
        gamma_at(0, 1, 1.0, 3.0, "step")


def test_a_constant_gamma_stays_where_it_starts():
    assert {gamma_at(epoch, 10, 1.0, 3.0, "constant") for epoch in range(10)} == {1.0}


@pytest.mark.parametrize(
    "epochs, expected", [(10, [1.0] * 8 + [0.2, 0.04]), (1, [1.0]), (2, [1.0, 1.0])]
)
def test_the_learning_rate_drops_at_80_and_90_percent(epochs, expected):
    assert [learning_rate_at(epoch, epochs, 1.0) for epoch in range(epochs)] == pytest.approx(
        expected
    )
    within = [learning_rate_at(epoch + 0.99, epochs, 1.0) for epoch in range(epochs)]
    assert within == pytest.approx(expected)  # one for the whole epoch


@pytest.mark.parametrize("epochs", [1, 10, 33])
def test_one_cycle_rises_for_a_tenth_and_then_falls_to_zero(epochs):
    rates = [
        learning_rate_at(step / 100 * epochs, epochs, 0.002, "one_cycle") for step in range(101)
    ]
    assert (
        rates[0] == pytest.approx(0.002 / 25)
        and rates[10] == pytest.approx(0.002)
        and rates[100] == pytest.approx(0, abs=1e-9)
    )
    assert all(before < after for before, after in zip(rates[:10], rates[1:11]))
    assert all(before > after for before, after in zip(rates[10:], rates[11:]))
    assert rates[55] == pytest.approx(0.001)


def test_an_unknown_learning_rate_schedule_is_refused():
    with pytest.raises(ValueError, match="'cosine'"):
        learning_rate_at(0, 1, 1.0, "cosine")


@pytest.mark.parametrize("epochs, settled", [(1, [1]), (2, [2]), (8, [7, 8]), (10, [8, 9, 10])])
def test_the_last_quarter_of_one_cycle_is_settled_and_every_epoch_of_steps(epochs, settled):
    numbers = range(1, epochs + 1)
    assert [number for number in numbers if is_eligible(number, epochs, "one_cycle")] == settled
    assert all(is_eligible(number, epochs, "steps") for number in numbers)
    assert learning_rate_at(SETTLED * epochs, epochs, 1.0, "one_cycle") < 0.2
