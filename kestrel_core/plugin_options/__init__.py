"""The options of plug-ins: what a class can be made with, and making it from text or from values.

The parameters of a plug-in's class are its options, and the literals below its attrs fields are
their documentation; there is no second description to keep in step. `text` splits what a command
line has, `value_type` reads the values by their annotations, `making` calls the class.
"""

from kestrel_core.plugin_options.docstrings import attribute_docstrings as attribute_docstrings
from kestrel_core.plugin_options.making import plugin_from_text as plugin_from_text
from kestrel_core.plugin_options.making import plugin_from_values as plugin_from_values
from kestrel_core.plugin_options.option import PluginOption as PluginOption
from kestrel_core.plugin_options.option import options_of as options_of
from kestrel_core.plugin_options.text import PluginText as PluginText
from kestrel_core.plugin_options.value_type import ValueType as ValueType
