"""What stays in memory between jobs: the last thing, as long as it is as it was made."""

from __future__ import annotations

import gc
import weakref

from threed.core.kept import keeping, kept, let_go


class Thing:
    """Something large."""

    state = 0


def make(key: str, room: list[weakref.ref[Thing]]) -> Thing:
    """The thing of a key, for which those before must have made room."""

    def new() -> Thing:
        gc.collect()
        assert all(one() is None for one in room)
        room.append(weakref.ref(thing := Thing()))
        return thing

    return kept(key, new, lambda thing: thing.state)


def test_the_last_thing_is_had_again_until_it_has_changed() -> None:
    room: list[weakref.ref[Thing]] = []
    with keeping():
        first = make("mug", room)
        assert make("mug", room) is first
        let_go([Thing(), first])
        assert make("mug", room) is first
        first.state = 1
        del first
        for count, act in enumerate((lambda: None, lambda: let_go([Thing()])), 2):
            act()
            make("mug", room)
            assert len(room) == count
        make("ball", room)
        assert len(room) == 4
    make("ball", room)
    make("ball", room)
    assert len(room) == 6
