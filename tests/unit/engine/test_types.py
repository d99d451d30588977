import pytest

from engine.types import may_link

MATCHTYPE = "COMFY_MATCHTYPE_V3"


@pytest.mark.parametrize(
    ("received", "declared"),
    [
        ("IMAGE", "IMAGE"),
        ("IMAGE", "IMAGE,MASK"),
        ("INT, FLOAT", "FLOAT ,STRING"),
        ("IMAGE", "*"),
        ("*", "IMAGE"),
        ("IMAGE", "MASK, *"),
        ("IMAGE", MATCHTYPE),
        (MATCHTYPE, "IMAGE"),
        (["a", "b"], ["a", "b"]),
        (["a", "b"], "COMBO"),
    ],
)
def test_these_may_be_linked(received, declared):
    assert may_link(received, declared)


@pytest.mark.parametrize(
    ("received", "declared"),
    [
        ("IMAGE", "MASK"),
        ("IMAGE", "image"),
        ("IMAGE,LATENT", "MASK,INT"),
        (["a"], ["a", "b"]),
        (["a"], "STRING"),
        ("COMBO", ["a"]),
        (None, "IMAGE"),
        ({"a": 1}, "IMAGE"),
    ],
)
def test_these_may_not_be_linked(received, declared):
    assert not may_link(received, declared)


def test_a_trick_object_on_either_side_fits_anything():
    assert may_link("IMAGE", "MASK", received_is_any=True)
    assert may_link(["a"], "MASK", declared_is_any=True)
