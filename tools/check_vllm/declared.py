"""What our code uses of vLLM's objects, where syntax does not show their classes.

Each entry is an attribute, or a call with the arguments that we pass: by position (`_` where the parameter's name does
not matter, because vLLM only renamed it) or by name. A test compares this table with the attributes in `engine/`.
"""

from collections.abc import Mapping

DECLARED: Mapping[str, str] = {
    # The API process: the engine's client, and the states of its requests.
    "vllm.v1.engine.async_llm.AsyncLLM": """
        check_admission(n, request_id)  generate(prompt, sampling_params, request_id, lora_request=_)
        collective_rpc(method, timeout, args, kwargs)  remove_lora(lora_id)  list_loras()  get_supported_tasks()
        reset_mm_cache()  check_health()  shutdown(timeout=_)  output_processor  model_config  renderer  vllm_config
        errored  is_running  dead_error  sleep(level=_, mode=_)  wake_up()""",
    "vllm.v1.engine.output_processor.OutputProcessor": """
        process_outputs(engine_core_outputs, engine_core_timestamp)  request_states  get_num_unfinished_requests()""",
    "vllm.v1.engine.output_processor.RequestState": "external_req_id  prompt_len  is_prefilling",
    "vllm.v1.engine.EngineCoreOutput": "request_id  new_token_ids  prefill_stats  finished",
    "vllm.v1.engine.EngineCoreOutputs": "outputs",
    "vllm.v1.metrics.stats.PrefillStats": "num_cached_tokens",
    "vllm.v1.metrics.stats.RequestStateStats": """
        is_corrupted  first_token_latency  first_token_ts  last_token_ts  queued_ts  scheduled_ts  num_preemptions""",
    "vllm.outputs.RequestOutput": """
        outputs  metrics  finished  num_cached_tokens  prompt_token_ids  prompt_logprobs""",
    "vllm.outputs.CompletionOutput": "index  text  token_ids  finish_reason",
    "vllm.engine.arg_utils.EngineArgs": """
        trust_remote_code  from_cli_args(args)  create_engine_config()  create_model_config()""",
    "vllm.engine.arg_utils.AsyncEngineArgs": "from_cli_args(args)  create_engine_config(usage_context=_)",
    "vllm.lora.request.LoRARequest": "lora_name  lora_int_id  lora_path",
    "vllm.logprobs.Logprob": "logprob",
    "vllm.config.VllmConfig": """
        model_config  scheduler_config  lora_config  compilation_config  parallel_config  cache_config  quant_config""",
    # The grammar process, which compiles as the scheduler does, and the API process, which no longer checks grammars.
    "vllm.v1.engine.input_processor.InputProcessor": "structured_outputs_config",
    "vllm.sampling_params.SamplingParams": """
        structured_outputs  _all_stop_token_ids
        _validate_structured_outputs(model_config, structured_outputs_config, tokenizer)""",
    "vllm.sampling_params.BeamSearchParams": "beam_width  max_tokens",
    "vllm.sampling_params.StructuredOutputsParams": "all_constraints_none()  _backend",
    "vllm.v1.structured_output.StructuredOutputManager": "backend  tokenizer  _use_async_grammar_compilation",
    "vllm.v1.structured_output.backend_types.StructuredOutputBackend": "allocate_token_bitmask(_)",
    "vllm.v1.structured_output.backend_types.StructuredOutputGrammar": """
        accept_tokens(_, _)  fill_bitmask(_, _)  is_terminated()""",
    "vllm.v1.structured_output.request.StructuredOutputRequest": "grammar",
    "vllm.config.CacheConfig": "kv_cache_layout",
    "vllm.v1.kv_cache_interface.AttentionSpec": "num_kv_heads",
    "vllm.config.CompilationConfig": "mode  cudagraph_mode  static_forward_context",
    "vllm.config.ModelConfig": """
        model  tokenizer  dtype  hf_config  max_model_len  get_vocab_size()  get_hidden_size()
        get_total_num_hidden_layers()  try_get_generation_config()  get_and_verify_max_len(_)  quantization
        model_arch_config""",
    "vllm.config.model_arch.ModelArchitectureConfig": "quantization_config",
    "vllm.model_executor.layers.quantization.base_config.QuantizationConfig": "get_min_capability()",
    "vllm.model_executor.layers.linear.LinearBase": "input_size  output_size",
    "vllm.config.LoRAConfig": "max_lora_rank  max_loras  max_cpu_loras",
    "vllm.config.ParallelConfig": "world_size  data_parallel_size",
    "vllm.config.SchedulerConfig": "max_num_seqs  max_num_batched_tokens",
    # The API process: its application's state, the handlers of OpenAI's and Anthropic's endpoints, and rendering.
    "vllm.entrypoints.generate.api_router.init_generate_state": """
        openai_serving_chat  openai_serving_completion  openai_serving_responses  anthropic_serving_messages""",
    "vllm.entrypoints.launchers.api_server.app_state.init_app_state": "openai_serving_models",
    "vllm.entrypoints.openai.chat_completion.serving.OpenAIServingChat": """
        create_chat_completion(request)  beam_search  engine_client  model_config  chat_template
        chat_template_content_format  default_chat_template_kwargs  parser_cls
        _make_parser(request, tokenizer, chat_template_kwargs)  _engine_chat_template_kwargs(chat_template_kwargs)""",
    "vllm.entrypoints.openai.completion.serving.OpenAIServingCompletion": "beam_search",
    "vllm.entrypoints.openai.responses.serving.OpenAIServingResponses": "response_store  msg_store",
    "vllm.entrypoints.openai.models.serving.OpenAIServingModels": """
        is_base_model(model_name)  lora_requests  model_name(lora_request)""",
    "vllm.entrypoints.anthropic.serving.AnthropicServingMessages": """
        models  create_messages(request, raw_request)  count_tokens(request, raw_request)
        to_chat_completion_request(_, merge_inline_system=_)""",
    "vllm.entrypoints.serve.engine.protocol.UsageInfo": "prompt_tokens  completion_tokens  prompt_tokens_details",
    "vllm.renderers.hf.HfRenderer": """
        tokenizer  model_config  render_messages_async(messages, params)  _apply_chat_template_async""",
    "vllm.renderers.params.ChatParams": "chat_template  chat_template_kwargs",
    "vllm.parser.abstract_parser.Parser": """
        reasoning_parser  set_prompt_token_ids(_)  parse(_, request, model_output_token_ids=_)""",
    "vllm.reasoning.abs_reasoning_parsers.ReasoningParser": "reasoning_end_str",
    "vllm.tokenizers.protocol.TokenizerLike": """
        max_chars_per_token  get_vocab()  encode(text)  convert_ids_to_tokens(_)""",
    # The scheduler process.
    "vllm.v1.core.sched.scheduler.Scheduler": "update_from_output(scheduler_output, model_runner_output)  requests",
    "vllm.v1.core.sched.async_scheduler.AsyncScheduler": "update_from_output(scheduler_output, model_runner_output)",
    "vllm.v1.request.Request": "client_index  structured_output_request",
    # The workers.
    "vllm.v1.worker.gpu_worker.Worker": "model_runner  lora_config  parallel_config  wake_up()",
    "vllm.v1.worker.cpu_worker.CPUWorker": "model_runner  lora_config  parallel_config",
    "vllm.v1.worker.gpu_model_runner.GPUModelRunner": "lora_manager  num_prompt_logprobs  model  kv_caches",
    "vllm.v1.worker.gpu.model_runner.GPUModelRunner": "lora_manager  model  kv_caches",
    "vllm.lora.worker_manager.LRUCacheWorkerLoRAManager": "_adapter_manager  _load_adapter(lora_request)",
    "vllm.lora.model_manager": """
        process_packed_modules_mapping  is_supported_lora_module(module_name, *_)
        is_in_target_modules(module_name, *_)""",
    "vllm.lora.model_manager.LRUCacheLoRAModelManager": """
        _registered_adapters  _active_adapters  _last_mapping  _last_slot_layout  lora_index_to_id  lora_slots  modules
        packed_modules  model  punica_wrapper_mapping  _get_lora_layer_weights(lora_model, module_name)
        _create_merged_loras_inplace(lora_model)  remove_adapter(adapter_id)  deactivate_adapter(adapter_id)""",
    "vllm.lora.model_manager.AdapterLRUCache": "order",
    "vllm.lora.layers.utils.LoRAMapping": "prompt_mapping",
    "vllm.lora.lora_model.LoRAModel": "loras",
    "vllm.lora.lora_weights.LoRALayerWeights": "lora_a  lora_b",
    "vllm.lora.layers.base.BaseLayerWithLoRA": """
        set_lora(index, lora_a, lora_b)  reset_lora(index)  set_mapping(punica_wrapper)
        create_lora_weights(max_loras, lora_config, model_config)""",
    "vllm.lora.layers.base_linear.BaseLinearLayerWithLoRA": "lora_a_stacked  lora_b_stacked",
    "vllm.lora.layers.LogitsProcessorWithLoRA": "set_mapping  punica_wrapper",
    "vllm.lora.punica_wrapper.punica_base.PunicaWrapperBase": """
        token_lora_indices  sampler_indices  _sampler_indices  indices_len""",
    "vllm.lora.punica_wrapper.punica_cpu.PunicaWrapperCPU": """
        update_metadata  add_lora_linear  add_lora_embedding  add_lora_logits""",
    "vllm.lora.ops.triton_ops.utils": "_LORA_A_PTR_DICT  _LORA_B_PTR_DICT",
    "vllm.lora.layers.FusedMoEWithLoRA": "can_replace_layer",
    "vllm.lora.layers.FusedMoE3DWithLoRA": "can_replace_layer",
    "vllm.model_executor.layers.fused_moe.config.FusedMoEConfig": "is_lora_enabled",
    "vllm.platforms.interface.Platform": """
        get_punica_wrapper()  is_cpu()  is_cuda_alike()  update_block_size_for_backend(vllm_config)""",
    "vllm.device_allocator.AllocationData": "handle  tag",
    "vllm.device_allocator.cumem.CuMemAllocator": "pointer_to_data",
    # The description of a base.
    "vllm.model_executor.models.utils.WeightsMapper": "get_rename_mapper()  _map_name(key)",
    "vllm.model_executor.models.registry._ModelRegistry": "models",
    "vllm.model_executor.models.registry._BaseRegisteredModel": "load_model_cls()",
}
"""By the dotted path of a class or module."""
