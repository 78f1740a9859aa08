"""Code that runs in vLLM's worker and scheduler processes.

vLLM imports it by name: `extension` in workers (`worker_extension_cls`), `kv_zeroing` in the scheduler's process
(`scheduler_cls`). The API process imports only `kv_zeroing.install_scheduler`.
"""
