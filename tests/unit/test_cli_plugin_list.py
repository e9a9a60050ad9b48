from kestrel_core.cli.plugin_list import plugin_lines
from kestrel_core.registry import PluginInfo, PluginKind


def test_plugins_are_a_table_and_broken_ones_say_why() -> None:
    plugins = [
        PluginInfo(PluginKind.TRANSPORT, "tcp", "tcp:Tcp", "trio-kestrel", "1.0", None),
        PluginInfo(PluginKind.PROTOCOL, "smoke", "signal:Smoke", "x", "20.1", "no matches"),
    ]
    assert list(plugin_lines(plugins)) == [
        "KIND       NAME   TARGET        DISTRIBUTION  VERSION",
        "transport  tcp    tcp:Tcp       trio-kestrel  1.0",
        "protocol   smoke  signal:Smoke  x             20.1",
        "    broken: no matches",
    ]


def test_without_plugins_there_is_still_a_heading() -> None:
    assert list(plugin_lines([])) == ["KIND  NAME  TARGET  DISTRIBUTION  VERSION"]
