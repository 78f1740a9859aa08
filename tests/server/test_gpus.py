import string
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loramux_server.gpus import FIELDS, WSL_NVIDIA_SMI, Gpu, find_gpus, parse_gpus, visible_gpus

MACHINE_MEMORY, MACHINE_FREE = 128 << 30, 100 << 30
H100 = Gpu(
    name="NVIDIA H100 80GB HBM3",
    memory_bytes=81559 << 20,
    driver=580,
    compute_capability=(9, 0),
    free_bytes=81002 << 20,
    uuid="GPU-1a",
)
H100_LINE = "580.65.06, 81559, 81002, 9.0, GPU-1a, Disabled, NVIDIA H100 80GB HBM3\n"
WithSmi = Callable[..., tuple[tuple[Gpu, ...], str | None]]


def parsed(listing: str, fields: Sequence[str] = FIELDS) -> tuple[Gpu, ...]:
    return parse_gpus(listing, fields, MACHINE_MEMORY, MACHINE_FREE)


@pytest.fixture
def with_smi(tmp_path: Path) -> WithSmi:
    """Find GPUs on a machine whose nvidia-smi is this shell script."""

    def find(script: str, **environ: str) -> tuple[tuple[Gpu, ...], str | None]:
        folder = tmp_path / "bin"
        folder.mkdir(exist_ok=True)
        program = folder / "nvidia-smi"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        return find_gpus(MACHINE_MEMORY, MACHINE_FREE, {"PATH": str(folder), **environ}, tmp_path)

    return find


def without_smi(root: Path) -> tuple[tuple[Gpu, ...], str | None]:
    return find_gpus(MACHINE_MEMORY, MACHINE_FREE, {"PATH": str(root)}, root)


def write(path: Path, content: str = "") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


def test_a_gpu_is_described_as_its_driver_describes_it(with_smi: WithSmi) -> None:
    assert with_smi(f"echo '{H100_LINE.strip()}'") == ((H100,), None)
    assert H100.problem is None
    assert H100.properties == "driver 580, compute capability 9.0"


def test_a_gpu_without_memory_of_its_own_has_the_machines() -> None:
    """GPU-7: a GB10 was no GPU at all."""
    [gpu] = parsed("580.95.05, [N/A], [N/A], 12.1, GPU-2b, [N/A], NVIDIA GB10\n")
    assert (gpu.memory_bytes, gpu.free_bytes, gpu.unified) == (MACHINE_MEMORY, MACHINE_FREE, True)
    assert gpu.problem is None


@pytest.mark.parametrize(
    "nothing", ["[N/A]", "N/A", "[Not Supported]", "[Unknown Error]", "[Insufficient Permissions]"]
)
def test_a_field_without_a_value_hides_nothing_but_itself(nothing: str) -> None:
    """GPU-7."""
    [gpu] = parsed(f"{', '.join([nothing] * 6)}, T4")
    assert replace(gpu, memory_bytes=0, free_bytes=None, unified=False, doubt=None) == Gpu("T4", 0, None, uuid=nothing)
    [gpu] = parsed(f"580.1, 15360, {nothing}, 7.5, GPU-3, Disabled, T4")
    assert gpu == Gpu("T4", 15360 << 20, 580, (7, 5), None, uuid="GPU-3")


@pytest.mark.parametrize("nothing", ["[N/A]", "N/A", "[Not Supported]"])
def test_a_gpu_that_has_no_memory_of_its_own_says_so(nothing: str) -> None:
    [gpu] = parsed(f"580.1, {nothing}, {nothing}, 12.1, GPU-3, [N/A], GB10")
    assert (gpu.unified, gpu.memory_bytes, gpu.doubt) == (True, MACHINE_MEMORY, None)


@pytest.mark.parametrize("hidden", ["[Insufficient Permissions]", "[Unknown Error]", "[GPU is lost]", "0"])
def test_memory_that_the_driver_hides_is_not_the_machines(hidden: str) -> None:
    """GPU-7: a part of an H100 in a container was planned with the memory of the host."""
    [gpu] = parsed(f"580.1, {hidden}, {hidden}, 9.0, GPU-3, [N/A], H100")
    assert (gpu.unified, gpu.memory_bytes, gpu.problem) == (False, 0, None)
    assert gpu.doubt == "its driver does not say how much memory it has"


def test_a_gpu_that_is_divided_is_not_planned_as_a_whole() -> None:
    """GPU-7: CUDA has one of its parts, and nvidia-smi describes all of it."""
    [gpu] = parsed("580.1, 81559, 81002, 9.0, GPU-3, Enabled, H100")
    assert gpu.doubt == "it is divided into parts (MIG)"


@pytest.mark.parametrize(
    ("order", "lines", "is_known"),
    [(None, 2, True), ("PCI_BUS_ID", 2, True), ("FASTEST_FIRST", 1, True), ("FASTEST_FIRST", 2, False), ("", 2, False)],
)
def test_the_numbers_of_gpus_are_known_in_the_order_of_nvidia_smi_only(
    with_smi: WithSmi, order: str | None, lines: int, is_known: bool
) -> None:
    """GPU-4: on a machine with a T4 and an A100, the T4 was planned and CUDA's first GPU was the A100."""
    environ = {} if order is None else {"CUDA_DEVICE_ORDER": order}
    gpus, _ = with_smi("\n".join([f"echo '{H100_LINE.strip()}'"] * lines), **environ)
    assert [gpu.doubt is None for gpu in gpus] == [is_known] * lines


def test_a_name_may_contain_commas() -> None:
    assert parsed("580.1, 1, 1, 9.0, GPU-4, Disabled, A, B, C")[0].name == "A, B, C"


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (
            "570.10, 24564, 24000, 8.9, GPU-5, [N/A], RTX 4090",
            "its driver is 570, and CUDA 13 needs driver 580",
        ),
        (
            "580.10, 16384, 16000, 7.0, GPU-6, [N/A], V100",
            "its compute capability is 7.0, and CUDA 13 needs 7.5",
        ),
        # A newer driver would not help.
        (
            "570.10, 16384, 16000, 6.1, GPU-7, [N/A], P40",
            "its compute capability is 6.1, and CUDA 13 needs 7.5",
        ),
        ("580.10, 15360, 15000, 7.5, GPU-8, Disabled, T4", None),
        ("580.10, 15360, 15000, 12.0, GPU-9, Disabled, RTX 5090", None),
    ],
)
def test_a_gpu_that_can_not_be_used_says_why(line: str, problem: str | None) -> None:
    """GPU-7: the CPU engine was chosen without a word, or the CUDA engine died at its start."""
    [gpu] = parsed(line)
    assert (gpu.problem or "").startswith(problem or "")
    assert (gpu.problem is None) == (problem is None)


def test_an_old_nvidia_smi_is_asked_without_the_fields_that_it_does_not_know(with_smi: WithSmi) -> None:
    """GPU-7."""
    script = """
    case "$1" in
      *compute_cap*) echo 'Field "compute_cap" is not a valid field to query.'; exit 2;;
      *mig.mode.current*) echo 'Field "mig.mode.current" is not a valid field to query.'; exit 2;;
      *uuid*) echo 'Field "uuid" is not a valid field to query.' >&2; exit 2;;
      *) echo '470.256.02, 16160, 16000, Tesla V100, SXM2';;
    esac"""
    [gpu], problem = with_smi(script)
    assert problem is None
    assert gpu == Gpu("Tesla V100, SXM2", 16160 << 20, 470, None, 16000 << 20)
    assert (gpu.problem or "").startswith("its driver is 470")


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (
            'echo "NVIDIA-SMI has failed because it couldn\'t communicate with the NVIDIA driver."; exit 9',
            "`nvidia-smi` fails: NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver",
        ),
        ("exit 3", "`nvidia-smi` fails: exit code 3"),
        ("printf 'a\\033[2Jb\\n'; exit 3", "`nvidia-smi` fails: a?[2Jb"),
        # It refuses a field that was not asked for, or all: asking again would never end.
        ("echo 'Field \"x\" is not a valid field to query.'; exit 2", "`nvidia-smi` fails: Field"),
        ("echo 'Field \"name\" is not a valid field to query.'; exit 2", "`nvidia-smi` fails: Field"),
    ],
)
def test_a_driver_that_fails_is_the_reason(with_smi: WithSmi, script: str, reason: str) -> None:
    """GPU-7."""
    gpus, problem = with_smi(script)
    assert gpus == ()
    assert (problem or "").startswith(reason)


@pytest.mark.parametrize("printed", ["No devices were found", "", "a, b", ",,,,,"])
def test_what_is_no_gpu_is_no_gpu(with_smi: WithSmi, printed: str) -> None:
    assert with_smi(f"echo '{printed}'") == ((), None)


def test_windows_driver_is_found_in_wsl(tmp_path: Path) -> None:
    """GPU-7."""
    write(tmp_path / WSL_NVIDIA_SMI, f"#!/bin/sh\necho '{H100_LINE.strip()}'\n")
    (tmp_path / WSL_NVIDIA_SMI).chmod(0o755)
    assert without_smi(tmp_path) == ((H100,), None)


def test_a_machine_without_a_gpu_has_no_reason(tmp_path: Path) -> None:
    write(tmp_path / "sys/bus/pci/devices/0000:00:01.0/vendor", "0x10de\n")
    write(tmp_path / "sys/bus/pci/devices/0000:00:01.0/class", "0x040300\n")  # the audio device of a card
    write(tmp_path / "sys/bus/pci/devices/0000:00:02.0/vendor", "0x8086\n")
    assert without_smi(tmp_path) == ((), None)


def test_an_nvidia_gpu_without_a_driver_is_named(tmp_path: Path) -> None:
    """GPU-7."""
    write(tmp_path / "sys/bus/pci/devices/0000:01:00.0/vendor", "0x10de\n")
    write(tmp_path / "sys/bus/pci/devices/0000:01:00.0/class", "0x030200\n")
    _, problem = without_smi(tmp_path)
    assert (problem or "").startswith("there is an NVIDIA GPU without `nvidia-smi`: install NVIDIA's driver 580")


@pytest.mark.parametrize(("device", "reason"), [("dev/kfd", "AMD GPU"), ("dev/dxg", "driver 580 or newer in Windows")])
def test_other_gpus_are_named(tmp_path: Path, device: str, reason: str) -> None:
    """GPU-7: ROCm was silently the CPU."""
    write(tmp_path / device)
    gpus, problem = without_smi(tmp_path)
    assert gpus == ()
    assert reason in (problem or "")


TWO = parsed(H100_LINE + "580.1, 24564, 24000, 8.9, GPU-1b, Disabled, RTX 4090\n")


@pytest.mark.parametrize(
    ("variable", "visible"),
    [
        (None, TWO),
        ("0,1", TWO),
        ("1,0", TWO[::-1]),
        (" 1 ", TWO[1:]),
        ("GPU-1b", TWO[1:]),
        ("GPU-1", ()),  # of both
        ("0,0", TWO[:1]),
        ("0,7,1", TWO[:1]),
        ("", ()),
        ("-1", ()),
        ("NoDevFiles", ()),
        ("MIG-GPU-1a/1/0", tuple(replace(gpu, doubt="it is divided into parts (MIG)") for gpu in TWO)),
    ],
)
def test_only_visible_gpus_count(variable: str | None, visible: tuple[Gpu, ...]) -> None:
    assert visible_gpus(TWO, variable) == visible


def test_hidden_gpus_are_the_reason(with_smi: WithSmi) -> None:
    """GPU-7."""
    hidden = with_smi(f"echo '{H100_LINE.strip()}'", CUDA_VISIBLE_DEVICES="")
    assert hidden == ((), "the variable CUDA_VISIBLE_DEVICES hides all GPUs")


CELLS = st.text(
    st.characters(codec="utf-8", exclude_characters=",\n\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"), min_size=1
)
VALUES = st.one_of(CELLS, st.integers().map(str), st.just("[N/A]"), st.text(string.digits, min_size=1, max_size=6000))


@given(st.lists(st.lists(VALUES, min_size=7, max_size=7)))
def test_every_line_with_all_cells_is_one_gpu(lines: list[list[str]]) -> None:
    gpus = parsed("\n".join(", ".join(cells) for cells in lines))
    assert len(gpus) == sum(all(cell.strip() for cell in cells) for cells in lines)
    for gpu in gpus:
        assert gpu.memory_bytes > 0 or gpu.doubt
        assert isinstance(gpu.problem, str | None)


@given(st.text(), st.text())
def test_any_output_is_understood_or_ignored(listing: str, variable: str) -> None:
    for gpu in visible_gpus(parsed(listing), variable):
        assert replace(gpu, doubt=None) in [replace(known, doubt=None) for known in parsed(listing)]
