"""Which connections an endpoint takes: caps, rates, and lists of addresses.

`middleware` has the options, and `entrance` what they come to. `gate` counts and decides, without
waiting and without trio; `listener` and the middleware itself ask it, at their two places.
"""

from kestrel_middleware.admission.answer import Answer as Answer
from kestrel_middleware.admission.entrance import AdmissionStatistics as AdmissionStatistics
from kestrel_middleware.admission.entrance import WhenFull as WhenFull
from kestrel_middleware.admission.middleware import ConnectionAdmission as ConnectionAdmission
