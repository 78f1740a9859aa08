"""Checks a proposed experiment, and makes its configuration: a variant for each version, on what its name points at."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

from loramux_adapters.models import AdapterName, VersionId
from loramux_adapters.resolver import AdapterResolver
from loramux_server.experiments.errors import ExperimentInvalid
from loramux_server.experiments.live import unserved_reason
from loramux_server.experiments.models import (
    ExperimentConfig,
    FeedbackQuality,
    Message,
    Promotion,
    Quality,
    Variant,
)

MAX_PROMPT_BYTES = 500_000
_SHOWN = 80


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """A proposed experiment: with a baseline (a version, or the base; and a prompt), or with a candidate version."""

    adapter: AdapterName
    share: float
    quality: Quality
    margin: float
    shadow: bool = False
    baseline_version: VersionId | None = None
    prompt: Sequence[Message] = ()
    candidate: VersionId | None = None
    promotion: Promotion | None = None


def configure(proposal: Proposal, resolver: AdapterResolver) -> ExperimentConfig:
    """Return the experiment's configuration.

    Raises:
        AdapterNotFound: there is no such adapter.
        AliasTargetMissing, InvalidAlias: the adapter is given by an alias of something else.
        ExperimentInvalid: it can't be done as proposed.
    """
    proposal = _by_own_names(proposal, resolver)
    current = _only_target(proposal.adapter, resolver)
    _check(proposal)
    if proposal.candidate is not None:
        challenger = Variant(name="candidate", version=_own_version(proposal.candidate, proposal, resolver))
        reference = Variant(name="current", version=current)
    else:
        challenger = Variant(name="adapter", version=current)
        version = proposal.baseline_version
        baseline = None if version is None else _own_version(version, proposal, resolver)
        reference = Variant(name="baseline", version=baseline, prompt=tuple(proposal.prompt))
    if (challenger.version, challenger.prompt) == (reference.version, reference.prompt):
        raise ExperimentInvalid(f"Both variants are {current}: nothing would be compared.", "baseline")
    return ExperimentConfig(
        adapter=proposal.adapter,
        challenger=challenger,
        reference=reference,
        sampled="reference" if proposal.candidate is None else "challenger",
        share=proposal.share,
        quality=proposal.quality,
        margin=proposal.margin,
        shadow=proposal.shadow,
        promotion=proposal.promotion,
    )


def _by_own_names(proposal: Proposal, resolver: AdapterResolver) -> Proposal:
    """Return the proposal with the adapter's own name instead of an alias."""

    def own(version: VersionId | None) -> VersionId | None:
        return None if version is None else VersionId.parse(resolver.own_name(str(version)))

    return replace(
        proposal,
        adapter=resolver.adapter_name(proposal.adapter),
        baseline_version=own(proposal.baseline_version),
        candidate=own(proposal.candidate),
    )


def _check(proposal: Proposal) -> None:
    if proposal.candidate is None and proposal.promotion is not None:
        raise ExperimentInvalid("Only a candidate can be promoted.", "promotion")
    if proposal.shadow and isinstance(proposal.quality, FeedbackQuality):
        raise ExperimentInvalid(
            "Users never see the answers of a shadow experiment, so they can't give feedback: use a scorer or a judge.",
            "quality",
        )
    if proposal.shadow and proposal.candidate is not None:
        raise ExperimentInvalid("A candidate is tested on live requests: remove `shadow`.", "shadow")
    if not proposal.shadow and proposal.share >= 1:
        raise ExperimentInvalid("A share of 100 % leaves nothing to compare with.", "share")
    if len(json.dumps(list(proposal.prompt))) > MAX_PROMPT_BYTES:
        raise ExperimentInvalid(f"The prompt is larger than {MAX_PROMPT_BYTES} bytes.", "baseline.prompt")


def _only_target(adapter: AdapterName, resolver: AdapterResolver) -> str:
    targets = list(resolver.require(adapter).targets)
    if len(targets) != 1:
        state = "is split among several versions" if targets else "points at no version"
        raise ExperimentInvalid(f"{adapter} {state}: promote one version first.", "adapter")
    return str(VersionId(adapter, targets[0]))


def _own_version(version: VersionId, proposal: Proposal, resolver: AdapterResolver) -> str:
    param = "candidate" if proposal.candidate else "baseline.model"
    if version.name != proposal.adapter:
        raise ExperimentInvalid(f"{str(version)[:_SHOWN]} is no version of {proposal.adapter}.", param)
    reason = unserved_reason(Variant(name="candidate", version=str(version)), resolver)
    if reason:
        raise ExperimentInvalid(reason, param)
    return str(version)
