import pytest
import torch

from visage_mlflow.geometry.blocks import BLOCK, blocks, length, merged, whole


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


# The same sum with each tensor once


def held(terms):
    return [(coefficient, tensor.data_ptr()) for coefficient, tensor in terms]


def test_merged_adds_up_the_coefficients_of_one_tensor_at_its_first_place():
    a, b = torch.ones(3), torch.ones(3)
    assert held(merged([(1.0, a), (2.0, b), (-0.25, a)])) == held([(0.75, a), (2.0, b)])


def test_merged_drops_what_cancels_so_that_a_step_of_1_leaves_the_end_alone():
    base, end = torch.ones(3), torch.full((3,), 2.0)
    assert held(merged([(1.0, base), (-1.0, base), (1.0, end)])) == held([(1.0, end)])
    assert merged([(0.0, base)]) == [] == merged([])


def test_merged_knows_views_of_the_same_values_as_the_same():
    parameter = torch.nn.Parameter(torch.ones(2, 3))
    assert held(merged([(1.0, parameter), (1.0, parameter.detach()), (1.0, parameter.data)])) == held(
        [(3.0, parameter)]
    )


def test_merged_keeps_apart_what_only_begins_at_the_same_place():
    square = torch.arange(9.0).view(3, 3)
    others = [square.t(), square[:2], square.view(9), square.view(torch.int32), square[0]]
    terms = [(1.0, square), *((1.0, other) for other in others)]
    assert [tensor.shape for _, tensor in merged(terms)] == [tensor.shape for _, tensor in terms]


def test_merged_sums_are_the_sums_but_for_the_last_bits_of_float64():
    generator = torch.Generator().manual_seed(0)
    a, b, c = (torch.randn(1000, generator=generator) for _ in range(3))
    terms = [(1.0, a), (-0.3, b), (0.3, c), (-0.7, a), (0.1, c), (0.2, b)]
    # Each of six products and six sums is rounded by at most 2**-53 of what is added up.
    bound = 12 * 2.0**-53 * sum(abs(coefficient) * tensor.double().abs() for coefficient, tensor in terms)
    assert len(merged(terms)) == 3 and ((whole(a, merged(terms)) - whole(a, terms)).abs() <= bound).all()


def test_merged_empty_tensors_are_still_an_empty_sum():
    empty = torch.zeros(0, 4)
    assert whole(empty, merged([(1.0, empty), (-0.5, torch.zeros(0, 4)), (2.0, empty)])).shape == (0, 4)


@pytest.mark.parametrize("size", [0, 1, BLOCK, 2**17 + 3])
def test_the_length_of_a_tensor_is_that_in_float64(size):
    tensor = torch.randn(size, generator=torch.Generator().manual_seed(0))
    assert float(length(tensor)) == pytest.approx(float(tensor.double().norm()), rel=1e-12)
    assert float(length(tensor.expand(3, -1).t())) == pytest.approx(3**0.5 * float(tensor.double().norm()), rel=1e-12)
