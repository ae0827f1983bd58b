"""Deployment files: what the field's own checkers say of them, for each layout, and the rules that no checker knows."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from danlu.recipe.recipe import Recipe
from danlu.recipe.serving import ServingSection
from danlu.serving.deployment import Deployment, Placed, deployment_files, vllm_words

ADAPTERS = (
    Placed("law", "law", "vllm-lora", "bases/qwen", rank=16),
    Placed("客服", "客服", "vllm-lora", "bases/qwen", rank=40),
)
LAYOUTS = {
    "one machine": Deployment("law", (Placed("law", "law", "merged"),), ServingSection(), ("serve", "train"), "3.12"),
    "before vllm": Deployment("law", ADAPTERS, ServingSection(engine="vllm", context=4096), ("serve",), "3.12", 2**34),
}
BIN = Path(sys.executable).parent


@pytest.fixture(params=LAYOUTS)
def layout(request, tmp_path) -> tuple[Deployment, Path]:
    deployment = LAYOUTS[request.param]
    for name, text in deployment_files(deployment).items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    return deployment, tmp_path


def checked(*words: str | Path, cwd: Path | None = None) -> None:
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, cwd=cwd)
    assert done.returncode == 0, done.stdout + done.stderr


def tool(name: str) -> Path:
    place = BIN / name if (BIN / name).exists() else Path(shutil.which(name) or "")
    if not place.is_file():
        pytest.skip(f"{name} is not here")
    return place


def manifests(folder: Path) -> list[dict]:
    files = sorted((folder / "deploy/kubernetes").glob("*.yaml"))
    named = [path for path in files if path.name not in ("kustomization.yaml", "serving.kubernetes.yaml")]
    return [doc for path in named for doc in yaml.safe_load_all(path.read_text(encoding="utf-8"))]


def test_compose_is_what_its_specification_says(layout):
    checked(tool("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", layout[1] / "deploy/compose.yaml")


def test_kubernetes_knows_every_field(layout):
    place = tool("kubernetes-validate")
    skipped = ("kustomization.yaml", "serving.kubernetes.yaml")
    files = [path for path in sorted((layout[1] / "deploy/kubernetes").glob("*.yaml")) if path.name not in skipped]
    for version in ("1.29", "1.33"):
        checked(place, "--strict", "-k", version, *files)


def test_kustomize_takes_it_together(layout):
    checked(tool("kubectl"), "kustomize", layout[1] / "deploy/kubernetes")


def test_dockerfiles_are_linted(layout):
    checked(tool("hadolint"), *sorted((layout[1] / "deploy/docker").glob("*.Dockerfile")))


def test_systemd_reads_the_unit(layout):
    place = tool("systemd-analyze")
    unit = layout[1] / "deploy/danlu-serve.service"
    unit.write_text(
        unit.read_text().replace("/opt/danlu/venv/bin/danlu", "/bin/true").replace("User=danlu", "User=root")
    )
    checked(place, "verify", unit)


def test_shells_read_the_scripts(layout):
    for script in ("install.sh", "deploy/make-secrets.sh", "deploy/kubernetes/secrets.sh"):
        checked("sh", "-n", layout[1] / script)


def test_configurations_are_recipes(layout):
    deployment, folder = layout
    for name in (
        "deploy/serving.machine.yaml",
        "deploy/serving.container.yaml",
        "deploy/kubernetes/serving.kubernetes.yaml",
    ):
        section = Recipe.load(folder / name).serving
        assert [served.name for served in section.models] == [model.name for model in deployment.models], name
    container = Recipe.load(folder / "deploy/serving.container.yaml").serving
    assert (container.host, container.plain_http) == ("0.0.0.0", True)
    assert container.limits.kind == ("redis" if deployment.has_vllm else "local")


def test_several_gateways_share_their_stores_on_kubernetes(layout):
    cluster = Recipe.load(layout[1] / "deploy/kubernetes/serving.kubernetes.yaml").serving
    assert (cluster.store.kind, cluster.limits.kind) == ("postgres", "redis")


def test_no_secret_stands_in_a_file(layout):
    """They are drawn where they are used; a bundle is copied around."""
    folder = layout[1]
    assert not (folder / "deploy/secrets").exists()
    checked("sh", folder / "deploy/make-secrets.sh")
    drawn = {path.name: path.read_text() for path in (folder / "deploy/secrets").iterdir()}
    assert all(path.stat().st_mode & 0o077 == 0 for path in (folder / "deploy/secrets").iterdir())
    assert len({drawn[name] for name in ("pepper", "engine-key", "postgres-password", "redis-password")}) == 4
    assert drawn["postgres-password"] in drawn["postgres-url"]
    checked("sh", folder / "deploy/make-secrets.sh")
    assert drawn == {path.name: path.read_text() for path in (folder / "deploy/secrets").iterdir()}, "drawn once"


def test_engines_are_reached_by_the_gateway_alone(layout):
    """Incident: an engine's own key guards only some of its paths, so nobody else may come near it."""
    deployment, folder = layout
    compose = yaml.safe_load((folder / "deploy/compose.yaml").read_text())
    published = {name for name, service in compose["services"].items() if "ports" in service}
    assert published == {"gateway"}
    assert all(port.startswith("127.0.0.1:") for port in compose["services"]["gateway"]["ports"])
    assert compose["networks"]["back"]["internal"] is True
    beyond = {name for name, service in compose["services"].items() if "front" in service["networks"]}
    assert beyond == {"gateway"}
    policies = {doc["metadata"]["name"]: doc["spec"] for doc in manifests(folder) if doc["kind"] == "NetworkPolicy"}
    assert policies["nothing"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    for name in ("redis", "postgres", *(["vllm"] if deployment.has_vllm else [])):
        (rule,) = policies[name]["ingress"]
        (source,) = rule["from"]
        assert source["podSelector"]["matchLabels"]["app.kubernetes.io/component"] == "gateway"
        assert policies[name]["policyTypes"] == ["Ingress"], "its way out is closed by the policy for all"


def test_pods_are_as_the_namespace_demands(layout):
    """Pod security `restricted`: what the namespace enforces, each pod brings."""
    for doc in manifests(layout[1]):
        if doc["kind"] not in ("Deployment", "StatefulSet"):
            continue
        spec = doc["spec"]["template"]["spec"]
        assert spec["securityContext"]["runAsNonRoot"] and spec["securityContext"]["seccompProfile"]
        assert spec["automountServiceAccountToken"] is False
        for container in spec["containers"]:
            guard = container["securityContext"]
            assert guard["readOnlyRootFilesystem"] and not guard["allowPrivilegeEscalation"]
            assert guard["capabilities"] == {"drop": ["ALL"]}
            assert "limits" in container["resources"], container["name"]
            labels = doc["spec"]["template"]["metadata"]["labels"]
            assert doc["spec"]["selector"]["matchLabels"].items() <= labels.items()


def test_images_run_as_nobody_and_are_pinned(layout):
    for path in (layout[1] / "deploy/docker").glob("*.Dockerfile"):
        lines = path.read_text().splitlines()
        source = next(line for line in lines if line.startswith("FROM "))
        assert ":" in source and not source.endswith(":latest"), source
        assert "USER 10001:10001" in lines, path.name
        installs = [line for line in lines if "pip install" in line]
        assert all("--no-index" in line for line in installs), "wheels of the bundle only"


def test_one_name_of_a_model_is_one_folder_for_vllm():
    words = vllm_words(ADAPTERS, ServingSection(engine="vllm", slots=64))
    assert words[words.index("--max-lora-rank") + 1] == "64", "the least that vLLM keeps room for above 40"
    assert words[-2:] == ["law=/models/law", "客服=/models/客服"]
    merged = vllm_words((Placed("law", "law", "vllm"),), ServingSection(engine="vllm"))
    assert "--enable-lora" not in merged and merged[0] == "/models/law" and "law" in merged
