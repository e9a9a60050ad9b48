import attrs
import pytest

from kestrel_core.features import Features, PeerCredentials, SocketInfo


def test_a_feature_is_found_by_its_class() -> None:
    features = Features()
    features.publish(SocketInfo(3))
    assert features[SocketInfo].fileno == 3
    assert features.get(SocketInfo) == SocketInfo(3)
    assert SocketInfo in features


def test_what_nobody_published_is_absent() -> None:
    features = Features()
    assert features.get(SocketInfo) is None
    assert SocketInfo not in features
    with pytest.raises(KeyError):
        features[SocketInfo]
    features.publish(PeerCredentials(1, 2, 3))
    assert features.get(SocketInfo) is None
    assert SocketInfo not in features
    with pytest.raises(KeyError):
        features[SocketInfo]


def test_the_last_one_published_counts() -> None:
    features = Features()
    features.publish(SocketInfo(3))
    features.publish(SocketInfo(4))
    assert features[SocketInfo].fileno == 4


def test_only_exactly_that_class_is_found() -> None:
    @attrs.frozen
    class Base:
        pass

    @attrs.frozen
    class Derived(Base):
        pass

    features = Features()
    features.publish(Derived())
    assert features.get(Base) is None
    assert features.get(Derived) == Derived()


def test_the_features_are_values() -> None:
    assert PeerCredentials(1, 2, 3) == PeerCredentials(1, 2, 3)
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        SocketInfo(3).fileno = 4  # type: ignore[misc]  # that is the point
