from pathlib import Path

from loramux_adapters.catalogue import Catalogue
from loramux_adapters.intake import Intake
from loramux_adapters.records import AdapterName, BaseSpec
from loramux_adapters.registry import Registry
from loramux_adapters.sources.folder import FolderSource
from loramux_adapters.store import Store
from tests.adapters.building import BASE, lora_tensors, write_adapter

TONE, OTHER = AdapterName("support-tone"), AdapterName("other")


class Shelf:
    """A store and a registry to take adapters in."""

    def __init__(self, root: Path, registry: Registry) -> None:
        self.root, self.registry, self.store = root, registry, Store(root / "store")

    def add(self, name: AdapterName, seed: int, base: BaseSpec = BASE) -> str:
        folder = write_adapter(self.root / "adapters" / f"{name}-{seed}", None, lora_tensors(seed=seed, base=base))
        source = FolderSource(folder, [self.root])
        return str(Intake(self.store, self.registry, base, 16).accept(name, source, now=float(seed)))

    def catalogue(self, base: BaseSpec = BASE) -> Catalogue:
        return Catalogue(self.registry.snapshot(), self.store, base)


def test_a_bare_name_leads_to_the_newest_version_and_each_version_to_itself(tmp_path: Path, registry: Registry) -> None:
    shelf = Shelf(tmp_path, registry)
    old, new = shelf.add(TONE, 1), shelf.add(TONE, 2)
    catalogue = shelf.catalogue()
    assert [str(catalogue.resolve(name)) for name in (TONE, old, new)] == [new, old, new]
    paths = {catalogue.path(version.id) for version in catalogue.adapters()[0].versions}
    assert len(paths) == 2
    assert all((path / "adapter_model.safetensors").is_file() for path in paths)


def test_what_is_not_registered_leads_nowhere(tmp_path: Path, registry: Registry) -> None:
    shelf = Shelf(tmp_path, registry)
    version = shelf.add(TONE, 1)
    catalogue = shelf.catalogue()
    for name in ("", "nobody", f"nobody@{version[-12:]}", "support-tone@", "support-tone@000000000000", "../" + TONE):
        assert catalogue.resolve(name) is None
        assert catalogue.get(name) is None


def test_a_dropped_adapter_is_gone_with_all_its_versions(tmp_path: Path, registry: Registry) -> None:
    shelf = Shelf(tmp_path, registry)
    version = shelf.add(TONE, 1)
    other = shelf.add(OTHER, 2)
    catalogue = shelf.catalogue()
    catalogue.drop(TONE)
    catalogue.drop(TONE)
    assert catalogue.resolve(TONE) is None
    assert catalogue.resolve(version) is None
    assert [str(catalogue.resolve(name)) for name in (OTHER, other)] == [other, other]


def test_what_was_accepted_for_another_base_is_not_served_on_this_one(tmp_path: Path, registry: Registry) -> None:
    shelf = Shelf(tmp_path, registry)
    shelf.add(TONE, 1)
    twin = BASE.model_copy(update={"name": "another-model-of-the-same-shapes"})
    assert shelf.catalogue(twin).resolve(TONE) is None
    assert shelf.catalogue(twin).adapters() == []
    assert shelf.catalogue().resolve(TONE) is not None
