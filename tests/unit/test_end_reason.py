from kestrel_core.end_reason import EndReason


def test_every_reason_has_a_word_of_its_own() -> None:
    assert len({reason.value for reason in EndReason}) == len(EndReason.__members__)


def test_the_words_fit_metrics() -> None:
    for reason in EndReason:
        assert reason.value.replace("_", "").isalpha()
        assert reason.value.islower()
