"""Which scopes a key needs for which route.

Every route outside of /admin and /metrics, which are for administrators, has one rule here; what has none does not
exist for other callers.
"""

from dataclasses import dataclass
from functools import cached_property
from re import Pattern

from starlette.routing import compile_path

from loramux_server.auth import Principal, Scope
from loramux_server.errors import InvalidRequest, NotPermitted

ADMIN_PATHS = ("/admin", "/metrics")
"""Paths for administrators, with all below them."""

INFER, FINETUNE, ANY = frozenset({Scope.INFER}), frozenset({Scope.FINETUNE}), frozenset({Scope.INFER, Scope.FINETUNE})


@dataclass(frozen=True)
class AccessRule:
    """A key with one of the scopes may call these methods of the paths of a template."""

    template: str
    """As in the route."""
    methods: frozenset[str]
    scopes: frozenset[Scope]

    @cached_property
    def path(self) -> Pattern[str]:
        """Matches the paths of the template."""
        return compile_path(self.template)[0]


def _rules(scopes: frozenset[Scope], methods: str, *templates: str) -> tuple[AccessRule, ...]:
    return tuple(AccessRule(template, frozenset(methods.split()), scopes) for template in templates)


RULES = (
    *_rules(
        INFER,
        "POST",
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/responses",
        "/v1/messages",
        "/v1/messages/count_tokens",
        "/tokenize",
        "/detokenize",
        "/v1/feedback",
    ),
    *_rules(ANY, "GET", "/v1/models", "/v1/models/{name:path}", "/v1/usage"),
    *_rules(ANY, "GET HEAD", "/openapi.json"),
    *_rules(FINETUNE, "DELETE", "/v1/models/{name:path}"),
    *_rules(FINETUNE, "GET POST", "/v1/files", "/v1/fine_tuning/jobs"),
    *_rules(FINETUNE, "GET DELETE", "/v1/files/{file}"),
    *_rules(
        FINETUNE,
        "GET",
        "/v1/files/{file}/content",
        "/v1/files/{file}/report",
        "/v1/fine_tuning/jobs/{job}",
        "/v1/fine_tuning/jobs/{job}/events",
        "/v1/fine_tuning/jobs/{job}/checkpoints",
    ),
    *_rules(
        FINETUNE,
        "POST",
        "/v1/uploads",
        "/v1/uploads/{upload}/parts",
        "/v1/uploads/{upload}/complete",
        "/v1/uploads/{upload}/cancel",
        "/v1/fine_tuning/jobs/{job}/cancel",
        "/v1/fine_tuning/jobs/{job}/pause",
        "/v1/fine_tuning/jobs/{job}/resume",
    ),
    *_rules(  # they say what is not supported
        FINETUNE,
        "GET POST DELETE",
        "/v1/fine_tuning/alpha/graders/{verb}",
        "/v1/fine_tuning/checkpoints/{checkpoint:path}/permissions",
        "/v1/fine_tuning/checkpoints/{checkpoint:path}/permissions/{permission}",
        "/v1/webhook_endpoints",
        "/v1/webhook_endpoints/{rest:path}",
    ),
)

_RULES_OF_PATHS = {rule.template: tuple(r for r in RULES if r.template == rule.template) for rule in RULES}
"""The rules by template: those of paths without parameters are found in it directly."""


def check_access(principal: Principal, method: str, path: str) -> None:
    """Check that the caller may call the route of a request.

    Raises:
        NotPermitted: its key lacks the scope.
        InvalidRequest: there is no such route for it.
    """
    if principal.admin:
        return
    if is_for_admins(path):
        raise NotPermitted("This needs an admin key.")
    scopes = required_scopes(method, path)
    if scopes is None:  # the answer of the router, also for a route that has no rule
        raise InvalidRequest(f"Not Found: {method} {path}.", status=404)
    if not scopes & principal.scopes:
        needed = " or ".join(f"`{scope}`" for scope in sorted(scopes))
        raise NotPermitted(f"This needs a key with the scope {needed}.")


def is_for_admins(path: str) -> bool:
    """Whether a path is for administrators only."""
    return any(path == start or path.startswith(f"{start}/") for start in ADMIN_PATHS)


def required_scopes(method: str, path: str) -> frozenset[Scope] | None:
    """Return the scopes of which a caller needs one, None if no rule has this method and path."""
    rules = _RULES_OF_PATHS.get(path, RULES)
    return next((rule.scopes for rule in rules if method in rule.methods and rule.path.fullmatch(path)), None)
