"""The Engine's JSON and the model's classes are two spellings of one thing."""

import pytest

from meshnet.codec import from_json, to_json
from meshnet.errors import MeshnetError
from meshnet.model import Service, ServiceSpec


def test_a_service_survives_the_round_trip() -> None:
    """What was read is what is written, under the Engine's names."""
    text = {
        "ID": "abc",
        "Version": {"Index": 7},
        "Spec": {
            "Name": "web",
            "TaskTemplate": {
                "ContainerSpec": {"Image": "nginx", "Env": ["A=1"]},
                "Networks": [{"Target": "n1"}],
            },
            "Mode": {"Global": {}},
            "EndpointSpec": {"Mode": "vip", "Ports": [{"Protocol": "udp", "TargetPort": 53}]},
        },
        "Endpoint": {"VirtualIPs": [{"NetworkID": "n1", "Addr": "10.0.1.2/24"}]},
        "Unknown": 1,
    }
    service = from_json(Service, text)
    assert service.spec.mode.replicated is None
    assert service.spec.mode.global_ is not None
    assert service.vip("n1") == "10.0.1.2"
    assert from_json(Service, to_json(service)) == service
    assert to_json(service)["Spec"]["TaskTemplate"]["Networks"][0]["Target"] == "n1"


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ({"Name": 5}, "Name: a string"),
        ({"Mode": {"Replicated": {"Replicas": True}}}, "Mode.Replicated.Replicas: a whole number"),
        ({"EndpointSpec": {"Ports": [{"TargetPort": "80"}]}}, "EndpointSpec.Ports[0].TargetPort"),
        ({"Labels": []}, "Labels: an object"),
        ([], "ServiceSpec: an object"),
    ],
)
def test_a_wrong_type_names_its_field(value: object, path: str) -> None:
    """A user who sends a wrong type is told which field it is."""
    with pytest.raises(MeshnetError) as caught:
        from_json(ServiceSpec, value)
    assert str(caught.value).startswith(path)


def test_field_names_know_no_case() -> None:
    """As in the Engine, a field is found in any case, and the proper spelling wins (docker-py writes `replicated`)."""
    spec = from_json(ServiceSpec, {"name": "web", "Mode": {"replicated": {"Replicas": 3}}})
    assert spec.name == "web"
    assert spec.mode.replicated is not None
    assert spec.mode.replicated.replicas == 3
    assert from_json(ServiceSpec, {"NAME": "no", "Name": "yes"}).name == "yes"
