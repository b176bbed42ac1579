"""Rows are found in masks, shifted and shifted back; masks that are no single run are refused."""

import pytest
import torch

from dihal_core.errors import ConfigError
from dihal_core.hybrid.padding import find_rows


def test_no_padding_is_no_rows():
    assert find_rows(None, 2, 3) is None
    assert find_rows(torch.ones(2, 3), 2, 3) is None


def test_rows_are_found_and_shifting_there_and_back_keeps_every_real_token():
    mask_BT = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 0], [1, 1, 1, 1]])
    rows = find_rows(mask_BT, 3, 4)
    assert rows is not None
    assert rows.first_B.tolist() == [2, 0, 0]
    assert rows.count_B.tolist() == [2, 3, 4]
    assert rows.positions(4).tolist() == [[0, 0, 0, 1], [0, 1, 2, 3], [0, 1, 2, 3]]
    x_BTD = torch.arange(12.0).reshape(3, 4, 1)
    left_BTD = rows.to_left(x_BTD)
    assert left_BTD[0, :2, 0].tolist() == [2, 3]
    back_BTD = rows.from_left(left_BTD)
    assert torch.equal(back_BTD[mask_BT.bool()], x_BTD[mask_BT.bool()])


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        ([[1, 1, 1], [1, 0, 1]], "row 1 is not one unbroken run"),
        ([[1, 1, 1], [2, 1, 1]], "row 1 is not one unbroken run"),
        ([[1, 1, 1], [0, 0, 0]], "row 1 holds padding only"),
        ([[1, 1], [1, 1]], r"shape \(2, 2\) does not fit 2 rows of 3"),
    ],
)
def test_other_masks_are_refused_by_row(mask, message):
    with pytest.raises(ConfigError, match=message):
        find_rows(torch.tensor(mask), 2, 3)
