"""A search says what was best, as metrics and as a table, and loads back equal; what was not measured is left out."""

import csv
import io
import math

import made
import pytest

from visage_mlflow.results import Search

NAN = math.nan


def lines(result):
    """The table's lines, each by column."""
    return list(csv.DictReader(io.StringIO(result.to_csv())))


def counts(harmful=0, safe=0, benign=0, task=0):
    return {"harmful": harmful, "safe": safe, "benign": benign, "task": task}


# Shares


def test_the_safe_share_is_of_all_rows_in_percent():
    # 60 of 30 + 60 + 20 + 10 = 120 rows.
    assert made.trial(counts=counts(30, 60, 20, 10)).safe_share == 50.0
    assert made.trial(counts=counts(30)).safe_share == 0.0 and made.trial(counts=counts(safe=1)).safe_share == 100.0
    assert made.trial(counts={"harmful": 30}).safe_share == 0.0


@pytest.mark.parametrize("nothing", [{}, counts()])
def test_the_share_of_no_rows_is_not_known(nothing):
    assert math.isnan(made.trial(counts=nothing).safe_share)


# Metrics


def test_metrics_count_trials_by_state_and_describe_the_best():
    assert made.search().metrics() == {
        "n_complete": 3, "n_pruned": 1, "n_failed": 1, "n_running": 0, "n_waiting": 0, "n_inside": 1,
        "best_trial": 2, "best_asr": 5.0, "best_over_refusal": 10.0, "best_asr_upper": 5.0,
        "best_over_refusal_upper": 10.0, "n_checks": 1, "check_asr": 2.5, "check_asr_spread": 2.5,
        "check_asr_upper": 9.5,
        "check_over_refusal": 5.0, "check_over_refusal_spread": 0.0, "check_over_refusal_upper": 18.0,
        "check_benign_nll": pytest.approx(3.9), "check_benign_nll_spread": pytest.approx(0.1), "check_holds": 1.0,
        "best_margin": 0.5, "best_violation": 0.0,
        "best_benign_nll": 3.8, "best_harmful": 30, "best_safe": 60, "best_benign": 30, "best_task": 0,
    }  # fmt: skip


def test_where_none_is_inside_metrics_describe_the_nearest_and_leave_out_what_is_not_known():
    found = made.search([made.trial(0, 80.0, NAN, NAN)], best=None, nearest=0).metrics()
    assert found["nearest_trial"] == 0 and found["nearest_violation"] == 70.0 and found["n_inside"] == 0
    unknown = {"nearest_over_refusal", "nearest_benign_nll", "nearest_margin"}
    assert not unknown & set(found) and not any(name.startswith("best_") for name in found)


@pytest.mark.parametrize("trials", [(), (made.trial(0, NAN, NAN, NAN, state="failed"),)], ids=["none", "failed"])
def test_where_nothing_was_measured_metrics_only_count(trials):
    found = made.search(trials, best=None, nearest=None, front=()).metrics()
    assert all(name.startswith("n_") for name in found) and found["n_failed"] == len(trials)


def test_a_check_that_does_not_hold_is_in_the_metrics_of_the_nearest():
    found = made.search(best=None, checks=(made.check(2, (5.0, NAN, 7.5), 21.0),)).metrics()
    assert (found["nearest_trial"], found["check_holds"], found["check_asr_upper"]) == (2, 0.0, 21.0)
    assert "check_asr" not in found and "check_asr_spread" not in found


def test_the_utility_is_named_after_its_answers():
    assert made.search(utility_name="task_nll").metrics()["best_task_nll"] == 3.8


# The table


def test_the_table_has_a_line_per_trial_with_settings_rows_and_rates():
    table = lines(made.search())
    assert [line["number"] for line in table] == ["0", "1", "2", "3", "4"]
    third = table[2]
    assert (third["param_safe"], third["param_learning_rate"]) == ("60", "0.0002")
    assert [third[f"rows_{kind}"] for kind in ("harmful", "safe", "benign", "task")] == ["30", "60", "30", "0"]
    assert (third["asr"], third["inside"], third["safe_share"], third["retry_of"]) == ("5.0", "True", "50.0", "")


def test_what_was_not_measured_is_an_empty_cell():
    failed = lines(made.search())[4]
    assert failed["asr"] == failed["over_refusal"] == failed["utility"] == failed["margin"] == ""
    assert failed["reason"] == "out of memory"


def test_trials_that_set_different_things_share_one_head():
    table = lines(made.search([made.trial(0, params={"safe": 1}), made.trial(1, params={"epochs": 2.5}, retry_of=0)]))
    assert [(line["param_epochs"], line["param_safe"]) for line in table] == [("", "1"), ("2.5", "")]
    assert table[1]["retry_of"] == "0"


def test_a_reason_with_commas_quotes_and_line_ends_stays_one_cell():
    reason = 'CUDA error, "out of\nmemory"; =1+1'
    assert lines(made.search([made.trial(0, NAN, state="failed", reason=reason)]))[0]["reason"] == reason


def test_the_table_of_no_trials_is_its_head():
    assert lines(made.search((), best=None, nearest=None)) == []
    assert made.search((), best=None, nearest=None).to_csv().startswith("number,state,reason,asr,")


# The file


def test_a_search_loads_back_with_whole_numbers_whole_and_what_is_missing_missing(tmp_path):
    result = made.search(margin_min=0.3)
    result.save(tmp_path / "search.json")
    loaded = Search.load(tmp_path / "search.json")
    assert loaded == result and loaded.to_csv() == result.to_csv() and loaded.checks == result.checks
    # Optuna's settings: whole for rows and ranks, not for rates.
    assert [type(value) for value in loaded.trial(0).params.values()] == [int, float]
    assert math.isnan(loaded.trial(4).asr) and loaded.front == (0, 2) and loaded.trial(0).retry_of is None


def test_a_trial_is_found_by_its_number_not_its_place():
    result = made.search([made.trial(7), made.trial(3, 80.0)], best=7)
    assert result.trial(3).asr == 80.0 and result.trial(7).number == 7
