from __future__ import annotations

import sys
from importlib.metadata import EntryPoint

import pytest

from mmkd_core.contract import hookimpl
from mmkd_core.errors import PluginError
from mmkd_core.plugins import PluginHost, Registry

EMPTY = Registry(schema_version=1)


def status(host: PluginHost) -> dict[str, str]:
    return {record.name: record.status for record in host.records()}


def error_of(host: PluginHost, name: str) -> str:
    return next(record.error for record in host.records() if record.name == name)


class Plugin:
    """A plugin as an object: yields what it was given."""

    def __init__(self, *specs):
        self.specs = specs

    @hookimpl
    def mmkd_teachers(self):
        return self.specs


@pytest.fixture
def spec(installed):
    installed("good")
    from mmkd_good import SPEC

    return SPEC


def named(spec, name):
    return spec.model_copy(update={"name": name})


def test_an_installed_plugin_offers_its_teachers(installed):
    installed("good")
    host = PluginHost.discover()
    assert [s.name for s in host.specs()] == ["good", "good-small"]
    record = host.record_of("good-small")
    assert (record.name, record.distribution, record.version, record.api) == ("good", "mmkd-good", "1.0", 1)
    assert record.teachers == ("good", "good-small")
    assert record.error == ""


def test_each_way_of_being_broken_is_named_and_stops_nobody_else(installed):
    installed("broken_import", "bad_arg", "default_arg", "typo_hook", "api_v2", "good")
    host = PluginHost.discover()
    assert status(host) == {
        "api-v2": "incompatible",
        "bad-arg": "broken",
        "broken-import": "broken",
        "default-arg": "broken",
        "good": "loaded",
        "typo-hook": "broken",
    }
    assert error_of(host, "broken-import") == "SystemExit: this plugin needs a library that is not here"
    assert "Argument(s) {'colour'} are declared in the hookimpl" in error_of(host, "bad-arg")
    assert error_of(host, "default-arg") == "mmkd_load_teacher must not give defaults to its arguments: device"
    assert "unknown hook 'mmkd_teacher'" in error_of(host, "typo-hook")
    assert error_of(host, "api-v2") == "written for plugin API 2, this mmkd has 1"
    assert "mmkd_api_v2" not in sys.modules
    assert [s.name for s in host.specs()] == ["good", "good-small"]


def test_a_name_clash_names_both_and_loads_neither(installed):
    installed("good", "duplicate_name")
    host = PluginHost.discover()
    assert host.specs() == []
    for name in ("good", "good-small"):
        error = error_of(host, name)
        assert "teacher good-small is declared by" in error
        assert "good (mmkd-good 1.0)" in error
        assert "good-small (mmkd-good-small 1.0)" in error
        assert error.endswith("uninstall one of them")


def test_one_entry_point_name_with_two_values_is_a_clash_and_the_same_value_counts_once():
    twice = [EntryPoint("good", "mmkd_good", "mmkd.v1"), EntryPoint("good", "mmkd_other", "mmkd.v1")]
    host = PluginHost.discover(twice, {})
    assert [r.status for r in host.records()] == ["broken", "broken"]
    assert "entry point good is claimed by good and good" in host.records()[0].error


def test_the_same_plugin_from_two_distributions_counts_once(installed):
    installed("good")
    installed("good", distribution="mmkd-bundle")
    host = PluginHost.discover()
    assert status(host) == {"good": "loaded"}
    assert len(host.records()) == 1


def test_mmkd_plugins_chooses(installed):
    installed("good", "typo_hook")
    assert status(PluginHost.discover(environ={"MMKD_PLUGINS": ""})) == {"good": "disabled", "typo-hook": "disabled"}
    some = PluginHost.discover(environ={"MMKD_PLUGINS": " good ,"})
    assert status(some) == {"good": "loaded", "typo-hook": "disabled"}
    with pytest.raises(PluginError, match=r"plugin good .* is disabled: left out by MMKD_PLUGINS"):
        PluginHost.discover(environ={"MMKD_PLUGINS": ""}).teacher("good", EMPTY)


def test_a_disabled_plugin_is_not_imported(installed):
    installed("good")
    sys.modules.pop("mmkd_good", None)
    PluginHost.discover(environ={"MMKD_PLUGINS": ""})
    assert "mmkd_good" not in sys.modules


def test_strict_raises(installed):
    installed("typo_hook")
    with pytest.raises(PluginError, match=r"plugin typo-hook \(mmkd-typo-hook 1.0\) is broken: .*MMKD_STRICT=1"):
        PluginHost.discover(environ={"MMKD_STRICT": "1"})


def test_strict_does_not_mind_another_api(installed):
    installed("api_v2")
    assert status(PluginHost.discover(environ={"MMKD_STRICT": "1"})) == {"api-v2": "incompatible"}


def test_a_plugin_for_both_apis_is_listed_once(installed):
    installed("good")
    points = [EntryPoint("good", "mmkd_good", "mmkd.v1"), EntryPoint("good", "mmkd_good_v2", "mmkd.v2")]
    assert status(PluginHost.discover(points, {})) == {"good": "loaded"}


def test_names_must_follow_the_entry_point(spec):
    host = PluginHost.offering({"quilt": Plugin(spec)})
    assert error_of(host, "quilt") == "teacher good must be called quilt or quilt-..., after its entry point"


def test_what_is_no_spec_and_what_comes_twice_is_refused(spec):
    host = PluginHost.offering({"good": Plugin(spec, spec), "dict": Plugin({"name": "dict"}), "bare": object()})
    assert error_of(host, "good") == "it declares good twice"
    assert error_of(host, "dict") == "mmkd_teachers must yield TeacherSpec, not dict"
    assert error_of(host, "bare") == "it has no mmkd_teachers hook marked with @hookimpl"


def test_a_spec_that_fails_validation_names_the_field(spec):
    class Wrong:
        @hookimpl
        def mmkd_teachers(self):
            yield type(spec).model_validate(spec.model_dump() | {"embed_dim": 0})

    host = PluginHost.offering({"good": Wrong()})
    assert error_of(host, "good") == ("TeacherSpec is not valid: embed_dim: Input should be greater than or equal to 1")


def test_an_unknown_name_gets_near_names_and_the_next_command(spec):
    host = PluginHost.offering({"good": Plugin(spec)})
    with pytest.raises(PluginError) as caught:
        host.teacher("godo", EMPTY)
    assert str(caught.value) == (
        "no teacher is called 'godo'. Did you mean good? Run `mmkd teachers list` to see all teachers"
    )


def test_a_name_of_the_registry_says_how_to_add_it():
    with pytest.raises(PluginError, match=r"phantom-eye is not installed. Run `mmkd teachers add phantom-eye`"):
        PluginHost.offering({}).teacher("phantom-eye")
    with pytest.raises(PluginError, match="Did you mean phantom-eye"):
        PluginHost.offering({}).teacher("phantom-eyes")


def test_a_teacher_of_a_broken_plugin_says_why(installed):
    installed("broken_import")
    with pytest.raises(PluginError, match=r"plugin broken-import .* is broken: SystemExit: this plugin needs"):
        PluginHost.discover().teacher("broken-import", EMPTY)


def test_load_asks_the_owner_and_never_a_stranger(spec):
    asked = []

    class Loader(Plugin):
        def __init__(self, label, *specs):
            super().__init__(*specs)
            self.label = label

        @hookimpl
        def mmkd_load_teacher(self, spec, weights, device):
            asked.append((self.label, spec.name, sorted(weights), device))
            return self

    theirs = named(spec, "other")
    host = PluginHost.offering({"good": Loader("owner", spec), "other": Loader("stranger", theirs)})
    assert host.load(spec).label == "owner"
    assert asked == [("owner", "good", ["model"], "cpu")]


def test_a_spec_that_nobody_declared_goes_to_the_built_in_loaders_only(spec):
    class Greedy(Plugin):
        @hookimpl
        def mmkd_load_teacher(self, spec):
            raise AssertionError("a stranger was asked")

    host = PluginHost.offering({"good": Greedy(spec)})
    with pytest.raises(PluginError, match="no loader knows family 'tiny-linear' of teacher student"):
        host.load(named(spec, "student"))


def test_a_loader_that_fails_is_reported_with_teacher_and_plugin(spec):
    class Failing(Plugin):
        @hookimpl
        def mmkd_load_teacher(self):
            raise SystemExit("no such device")

    with pytest.raises(PluginError, match=r"teacher good cannot be loaded: SystemExit: no such device \(good\)"):
        PluginHost.offering({"good": Failing(spec)}).load(spec)


def test_a_real_plugin_loads(installed):
    installed("good")
    host = PluginHost.discover()
    teacher = host.load(host.teacher("good"))
    assert teacher.encode_text(teacher.tokenize(["a", "b"])).shape == (2, 4)
