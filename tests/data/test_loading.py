import pytest

from plasticity_lightning.data import DataArgumentError
from plasticity_lightning.data.loading import check_loader_arguments, limited, split_sizes


def test_split_sizes():
    assert split_sizes(60_000, 10_000) == (50_000, 10_000)
    assert split_sizes(10, 0.25) == (8, 2)  # round(2.5) = 2, to even
    assert split_sizes(10, 0) == split_sizes(10, 0.0) == (10, 0)
    for value in (10, 11, -1, 1.0, -0.1):
        with pytest.raises(DataArgumentError, match=f"val_size={value}"):
            split_sizes(10, value)


def test_limits():
    assert limited("limit_val", None, 5) == limited("limit_val", 5, 5) == 5
    with pytest.raises(DataArgumentError, match="limit_val=6: that split has only 5"):
        limited("limit_val", 6, 5)


@pytest.mark.parametrize(
    ("changed", "fault"),
    [
        ({"batch_size": 0}, "batch_size=0"),
        ({"num_workers": -1}, "num_workers=-1"),
        ({"seed": -1}, "seed=-1"),
        ({"limits": {"limit_train": -5}}, "limit_train=-5"),
        ({"limits": {"limit_test": 0}}, "limit_test=0"),
        ({"val_size": -3}, "val_size=-3"),
    ],
)
def test_impossible_arguments_are_named(changed, fault):
    arguments = {"batch_size": 1, "num_workers": 0, "seed": 0, "limits": {"limit_train": None}, "val_size": 0}
    check_loader_arguments(**arguments)
    with pytest.raises(DataArgumentError, match=fault):
        check_loader_arguments(**arguments | changed)
