"""vLLM's arguments that can't be set: loramux sets them itself, breaks with them, or has nothing that reads them.

An argument is obeyed or refused, never taken and ignored. A contract test compares these names with what vLLM reads.
"""

_OWN_SETTINGS = {
    "model": "use LORAMUX_BASE",
    "model_tag": "use LORAMUX_BASE",
    "served_model_name": "the base is called as its folder or as on the Hub",
    "host": "use LORAMUX_HOST",
    "port": "use LORAMUX_PORT",
    "api_key": "use LORAMUX_API_KEYS",
    "config": "use loramux.yaml",
    "lora_modules": "use `loramux adapter add`",
    "enable_lora": "it is on for every base whose adapters vLLM serves",
    "middleware": "middleware is not supported",
    "worker_extension_cls": "loramux sets it",
    "disable_log_stats": "statistics are needed to detect NaN values",
    "scheduler_cls": "loramux sets it to zero the KV cache",
    "enable_sleep_mode": "use LORAMUX_TRAINING__SLEEP",
}
_TLS = "use LORAMUX_SSL_CERTFILE and LORAMUX_SSL_KEYFILE; a reverse proxy can do more"
_CORS = "use LORAMUX_CORS_ORIGINS"
_HEADERS = "use LORAMUX_CONNECTIONS__HEADER_BYTES and LORAMUX_CONNECTIONS__HEADERS"
_PROXY = "loramux has its own HTTP server; a reverse proxy before it can do that"
_LOGS = "loramux has its own HTTP server, which logs no requests; use the metrics or LORAMUX_TRACES_ENDPOINT"
_ENDPOINT = "loramux has its own HTTP server, without this endpoint or feature"
_REPLICAS = "one loramux serves one engine; run one per GPU, each with its own port, behind a load balancer"
_WITHOUT_EFFECT = {
    _TLS: ("ssl_keyfile", "ssl_certfile", "ssl_ca_certs", "ssl_cert_reqs", "ssl_ciphers", "enable_ssl_refresh"),
    _CORS: ("allow_credentials", "allowed_origins", "allowed_methods", "allowed_headers"),
    _HEADERS: ("h11_max_header_count", "h11_max_incomplete_event_size"),
    _PROXY: ("uds", "root_path", "sse_keep_alive_interval"),
    _LOGS: ("uvicorn_log_level", "disable_uvicorn_access_log", "disable_access_log_for_endpoints"),
    _ENDPOINT: (
        "cohere_is_reasoning_model", "disable_fastapi_docs", "enable_flash_late_interaction", "enable_offline_docs",
        "enable_scale_out", "enable_tokenizer_info_endpoint", "grpc", "grpc_port", "tool_parser_plugin",
    ),
    "every response has an x-request-id": ("enable_request_id_headers",),
    _REPLICAS: (
        "api_server_count", "headless", "data_parallel_supervisor_port", "dp_supervisor_probe_failure_threshold",
        "dp_supervisor_probe_interval_s", "dp_supervisor_probe_timeout_s",
    ),
}  # fmt: skip
"""Names by the reason for their refusal."""
_BREAKS = {
    "trust_request_chat_template": "templates of requests are never rendered; an adapter can have one of its own",
    "speculative_config": "vLLM counts NaN values per draft token, so that one adapter's would be blamed on another",
}
_PREFIXES = {"data_parallel_": _REPLICAS}

REFUSED = {
    **_OWN_SETTINGS,
    **{name: reason for reason, names in _WITHOUT_EFFECT.items() for name in names},
    **_BREAKS,
}
"""The reasons by name; see `refusal` for those by prefix."""


def refusal(name: str) -> str | None:
    """Return why the argument can't be set, and what to do instead; None if it can."""
    prefixed = (reason for prefix, reason in _PREFIXES.items() if name.startswith(prefix))
    return REFUSED.get(name) or next(prefixed, None)
