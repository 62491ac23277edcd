import pytest
import torch

from visage_mlflow.geometry.blocks import BLOCK, blocks, whole


@pytest.mark.parametrize(("size", "lengths"), [(0, []), (1, [1]), (BLOCK, [BLOCK]), (BLOCK + 5, [BLOCK, 5])])
def test_blocks_cover_every_element_once(size, lengths):
    weight = torch.arange(size, dtype=torch.float32)
    found = [(block, parts) for block, parts in blocks(weight, [[(2.0, weight)], []])]
    assert [block.stop - block.start for block, _ in found] == lengths
    for block, (double, nothing) in found:
        assert torch.equal(double, 2 * weight[block].double())
        assert torch.equal(nothing, torch.zeros_like(double))


def test_blocks_are_as_long_as_asked_for():
    weight = torch.arange(5, dtype=torch.float32)
    found = [(block, part.tolist()) for block, (part,) in blocks(weight, [[(3.0, weight)]], 2)]
    assert found == [(slice(0, 2), [0.0, 3.0]), (slice(2, 4), [6.0, 9.0]), (slice(4, 5), [12.0])]


@pytest.mark.parametrize("first", [1.0, 2.0])
def test_the_tensors_that_are_added_stay_as_they_were(first):
    a, b = torch.ones(3, dtype=torch.float64), torch.full((3,), 4.0, dtype=torch.float64)
    assert whole(a, [(first, a), (0.5, b)]).tolist() == [first + 2] * 3
    assert a.tolist() == [1.0] * 3 and b.tolist() == [4.0] * 3


def test_each_product_is_rounded_before_it_is_added():
    # 0.1 is a little more than a tenth, by 5.6e-18: 10 * 0.1 rounds to 1, so nothing is left. A fused
    # multiplication and addition would leave about 5.6e-17.
    tenth = torch.full((1000,), 0.1, dtype=torch.float64)
    assert not whole(tenth, [(-1.0, torch.ones(1000)), (10.0, tenth)]).any()


def test_terms_of_any_dtype_and_layout_add_up_in_float64():
    weight = torch.zeros(2, 3, dtype=torch.bfloat16)
    terms = [(0.5, torch.arange(6).view(3, 2).t()), (1.0, torch.full((2, 3), 1e-12, dtype=torch.float64))]
    # Columns of the transposed tensor are (0, 1), (2, 3), (4, 5). The 1e-12 would be lost beside 1 in float32.
    expected = torch.tensor([[0.0, 1.0, 2.0], [0.5, 1.5, 2.5]], dtype=torch.float64) + 1e-12
    assert torch.equal(whole(weight, terms), expected)


def test_equal_terms_of_opposite_sign_leave_an_exact_zero():
    tensor = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    assert not whole(tensor, [(-0.3, tensor), (0.3, tensor)]).any()
