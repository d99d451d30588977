"""What a pack's sandbox is told of the other classes in its prompt."""

from __future__ import annotations

from dataclasses import replace

from engine.class_facts import class_facts
from engine.testing import FakeNode


def test_only_what_comes_out_of_the_prompts_classes_in_other_sandboxes_is_told() -> None:
    mine = FakeNode("Mine", lambda: (1,), outputs=("INT",), extension="mine").describe()
    friend = FakeNode("Friend", lambda: (1,), outputs=("INT",), extension="friend", group="g").describe()
    core = replace(FakeNode("SaveImage", lambda: (), extension="core").describe(), core=True)
    theirs = FakeNode(
        "Theirs",
        lambda: ([1],),
        {"secret": ["STRING", {"default": "their words"}]},
        outputs=("MODEL",),
        output_is_list=(True,),
        extension="theirs",
        output_node=True,
    ).describe()
    facts = class_facts(mine, (mine, core, theirs, theirs))
    assert list(facts) == ["Theirs"]
    assert set(facts["Theirs"]) == {"extension", "output_node", "output", "output_name", "output_is_list"}
    assert (facts["Theirs"]["output"], facts["Theirs"]["output_is_list"]) == (["MODEL"], [True])
    assert facts["Theirs"]["output_node"] is True
    assert "their words" not in str(facts)
    member = replace(mine, group="g")
    assert list(class_facts(member, (friend, mine))) == ["Mine"]
