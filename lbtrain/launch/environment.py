"""What launchers and libraries say to a job by environment variables and config files, and what the job does
about each. docs/engines.md prints these tables; a test compares them with the sources of the libraries.

    followed   means to the job what it means to the library
    rejected   would change the arithmetic or the number of processes behind the recipe's back: exit code 3,
               unless its value changes nothing
    no effect  changes neither
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from lbtrain.errors import LaunchError

_LOCAL_RANK = ("--local_rank", "--local-rank")
"""Options that `deepspeed` and `torch.distributed.launch` put before a script's own words."""

OFF = ("", "0", "false", "no", "none")
ON = ("1", "true", "t", "yes", "y", "on")


@dataclass(frozen=True)
class Setting:
    """Variables, or keys of a config file, that are treated alike. A name may be a pattern (`FSDP_*`)."""

    names: str
    """One or more, with spaces between them."""
    outcome: str
    why: str
    """For a rejected one: what to write instead."""
    unless: tuple[str, ...] = OFF
    """Values, in lower case, of a rejected one that change nothing; * is any. {precision} and {device} stand
    for those of the run.
    """
    needs_zero: bool = False
    """Of keys of DeepSpeed's configuration: without effect at ZeRO stage 0, and rejected there."""

    def covers(self, name: str) -> bool:
        return any(fnmatchcase(name, pattern) for pattern in self.names.split())


VARIABLES = (
    Setting(
        "RANK WORLD_SIZE LOCAL_RANK MASTER_ADDR MASTER_PORT LOCAL_WORLD_SIZE LOCAL_SIZE GROUP_WORLD_SIZE "
        "CROSS_SIZE",
        "followed",
        "the process group is made of them; values that contradict each other are rejected",
    ),
    Setting("PET_*", "followed", "options of torchrun, which starts the ranks by them"),
    Setting(
        "OMP_NUM_THREADS",
        "followed",
        "unless it is set, the cores of a machine are divided among its ranks",
    ),
    Setting(
        "CUDA_VISIBLE_DEVICES *_VISIBLE_DEVICES HABANA_VISIBLE_MODULES NEURON_RT_VISIBLE_CORES "
        "ZE_AFFINITY_MASK",
        "followed",
        "torch sees these devices alone",
    ),
    Setting(
        "SLURM_NTASKS SLURM_STEP_NUM_TASKS SLURM_STEP_ID SLURM_PROCID SLURM_LOCALID SLURM_NPROCS "
        "OMPI_COMM_WORLD_* PMI_RANK PMI_SIZE MPI_LOCALNRANKS MPI_LOCALRANKID MV2_COMM_WORLD_* "
        "JSM_NAMESPACE_* FLUX_JOB_SIZE FLUX_TASK_RANK FLUX_TASK_LOCAL_ID PMIX_RANK PALS_RANKID ALPS_APP_PE",
        "rejected",
        "several tasks without RANK, or as many as neither ranks nor hosts, would each train alone: "
        "give them torchrun's names, the message says how",
        ("*",),  # checked with the world (lbtrain.launch.world)
    ),
    Setting(
        "CROSS_RANK DS_ACCELERATOR_LAUNCHED CUDA_DEVICE_MAX_CONNECTIONS",
        "followed",
        "engine=auto knows its launcher by them",
    ),
    Setting(
        "DS_ACCELERATOR",
        "rejected",
        "DeepSpeed would use another device than the run: unset it",
        ("{device}",),
    ),
    Setting(
        "ACCELERATE_MIXED_PRECISION",
        "rejected",
        "the recipe decides: precision=bf16 or precision=fp16 in place of --mixed_precision",
        (*OFF, "{precision}"),
    ),
    Setting(
        "ACCELERATE_GRADIENT_ACCUMULATION_STEPS",
        "rejected",
        "gradients would be divided once more: micro_batch_size=N decides the accumulation steps",
        ("", "1"),
    ),
    Setting(
        "ACCELERATE_GRADIENT_CLIPPING",
        "rejected",
        "the recipe decides: optimizer.clip_norm=N",
    ),
    Setting(
        "ACCELERATE_USE_CPU ACCELERATE_TORCH_DEVICE",
        "rejected",
        "the ranks use GPUs where torch finds some: CUDA_VISIBLE_DEVICES= hides them",
        (*OFF, "{device}", "{on, on cpu}"),
    ),
    Setting(
        "ACCELERATE_USE_DEEPSPEED",
        "rejected",
        "use DeepSpeed itself: `deepspeed RECIPE.py deepspeed.zero_stage=1` in place of accelerate's plugin",
    ),
    Setting(
        "ACCELERATE_USE_FSDP",
        "rejected",
        "use `deepspeed RECIPE.py deepspeed.zero_stage=3`, or `accelerate launch --multi_gpu RECIPE.py`",
    ),
    Setting(
        "ACCELERATE_USE_MEGATRON_LM ACCELERATE_USE_PARALLELISM_CONFIG ACCELERATE_USE_SAGEMAKER "
        "ACCELERATE_SAGEMAKER_DISTRIBUTED_TYPE",
        "rejected",
        "the ranks are data parallel alone: accelerate launch --multi_gpu",
    ),
    Setting(
        "ACCELERATE_DYNAMO_BACKEND",
        "rejected",
        "the recipe decides whether the model is compiled: leave --dynamo_backend out",
    ),
    Setting(
        "NVIDIA_TF32_OVERRIDE",
        "rejected",
        "0 keeps NVIDIA's libraries from using TF32, whatever the recipe says: unset it, and set "
        "deterministic=true for fp32 in full precision",
        ("1",),
    ),
    Setting(
        "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE",
        "rejected",
        "deterministic=true computes fp32 in full precision, and false in TF32: unset it",
    ),
    Setting(
        "ONEDNN_DEFAULT_FPMATH_MODE DNNL_DEFAULT_FPMATH_MODE",
        "rejected",
        "fp32 would be computed in a lower precision: unset it",
        ("", "strict"),
    ),
    Setting(
        "FSDP_* MEGATRON_LM_* PARALLELISM_CONFIG_* ACCELERATE_DEEPSPEED_* ACCELERATE_FP8_* FP8_* "
        "ACCELERATE_DYNAMO_* ACCELERATE_CONFIG_DS_FIELDS ACCELERATE_ALLOW_CP_STANDALONE "
        "ENABLE_FSDP_FLOAT8_ALL_GATHER",
        "no effect",
        "details of what is rejected above",
    ),
    Setting(
        "ACCELERATE_DOWNCAST_BF16 XLA_DOWNCAST_BF16 XLA_USE_BF16 USE_TORCH_XLA PJRT_DEVICE TPU_NAME "
        "PT_HPU_LAZY_MODE DEEPSPEED_USE_HPU XPU_EVENT_KL3_ENABLE PYTORCH_ENABLE_MPS_FALLBACK "
        "MORI_ENABLE_SDMA DS_SDMA_*",
        "no effect",
        "of devices that the ranks do not use",
    ),
    Setting(
        "ACCELERATE_BYPASS_DEVICE_MAP ACCELERATE_INIT_INCLUDE_BUFFERS ACCELERATE_CPU_AFFINITY "
        "ACCELERATE_DEBUG_MODE ACCELERATE_DEBUG_RDV_FILE ACCELERATE_ENABLE_RICH ACCELERATE_LOG_LEVEL "
        "FORK_LAUNCHED NPROC NODE_RANK",
        "no effect",
        "of accelerate's launcher, loader and messages",
    ),
    Setting(
        "KMP_AFFINITY KMP_BLOCKTIME MKL_SERVICE_FORCE_INTEL USE_MKL_GEMM",
        "no effect",
        "where threads run; kernels that training does not use",
    ),
    Setting(
        "NCCL_* GLOO_* TORCH_NCCL_* TORCHCOMM_* TORCH_DIST* TORCH_FR_* TORCH_SYMM* "
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE TORCH_WORKER_SERVER_SOCKET TORCH_ELASTIC_* TORCHELASTIC_* "
        "FR_TRACE_* USE_LIBUV DEEPSPEED_TIMEOUT NVSHMEM_* ROCSHMEM_* ENABLE_NCCL_BASE_COLLECTIVES",
        "no effect",
        "how messages travel and what is logged of it",
    ),
    Setting(
        "DCP_* DS_ALLOW_DEPRECATED_FP16 DS_DC_* DS_PIN_* AUTOEP_* DEEPSPEED_COMPILE_SCHEDULER_* "
        "INFER_NTK_ALPHA DISABLE_LOGS_WHILE_COMPILING LOGGER_METHODS_TO_EXCLUDE_FROM_DISABLE LOGLEVEL "
        "PYTORCH_NO_CUDA_MEMORY_CACHING",
        "no effect",
        "parts of the libraries that no engine here uses; memory and messages",
    ),
    Setting(
        "DS_DEBUG_CUDA_BUILD DS_EVOFORMER_GPU_ARCH DS_IGNORE_CUDA_DETECTION DS_NVCC_THREADS "
        "DS_SKIP_CUDA_CHECK CFLAGS CPATH CXX CUTLASS_PATH CCL_ROOT LDFLAGS LIBRARY_PATH ROCM_PATH "
        "ASCEND_HOME_PATH TORCH_CUDA_ARCH_LIST PYTORCH_ROCM_ARCH PYTORCH_NVML_BASED_CUDA_CHECK TRITON_* "
        "FORCE_CUDA",
        "no effect",
        "how extensions are compiled",
    ),
    Setting(
        "AZUREML_EXPERIMENT_ID AZ_BATCH* DLTS_JOB_ID DLWS_JOB_ID SM_TRAINING_ENV AWS_* MLFLOW_* CLEARML_* "
        "DS_ENV_FILE PDSH_* PYTHON_EXEC PYTHONPATH USER HF_HOME XDG_CACHE_HOME",
        "no effect",
        "of clouds, trackers, shells and caches: the process group exists before a library asks them",
    ),
)

ACCELERATE_KEYS = (
    Setting("num_processes", "followed", "compared with the processes that run"),
    Setting(
        "num_machines machine_rank main_process_ip main_process_port rdzv_backend same_network gpu_ids",
        "followed",
        "the launcher starts the ranks by them",
    ),
    Setting(
        "distributed_type deepspeed_config fsdp_config megatron_lm_config parallelism_config "
        "compute_environment",
        "rejected",
        "all but plain data parallel, by the variables ACCELERATE_USE_*",
    ),
    Setting(
        "mixed_precision fp8_config",
        "rejected",
        "by ACCELERATE_MIXED_PRECISION, unless the recipe says so too",
    ),
    Setting("dynamo_config", "rejected", "by ACCELERATE_DYNAMO_BACKEND"),
    Setting(
        "use_cpu",
        "rejected",
        "where the ranks have GPUs, by ACCELERATE_USE_CPU; with num_processes, where one process was started",
    ),
    Setting(
        "mpirun_config",
        "rejected",
        "tasks of mpirun without RANK, as above",
    ),
    Setting(
        "debug enable_cpu_affinity main_training_function downcast_bf16 tpu_name tpu_zone tpu_use_cluster "
        "tpu_use_sudo command_file commands tpu_vm tpu_env",
        "no effect",
        "messages, placement of threads, TPUs",
    ),
)

DEEPSPEED_KEYS = (
    Setting(
        "train_batch_size train_micro_batch_size_per_gpu gradient_accumulation_steps "
        "managed_gradient_accumulation gradient_clipping optimizer scheduler fp16 bf16 bfloat16 "
        "torch_autocast zero_optimization.stage",
        "rejected",
        "it comes from the recipe",
    ),
    Setting(
        "zero_optimization.zero_quantized_* zero_optimization.zenflow "
        "zero_optimization.memory_efficient_linear gradient_allreduce_op sparse_gradients sparse_attention "
        "amp compile progressive_layer_drop curriculum_learning data_efficiency compression_training "
        "quantize_training weight_quantization hybrid_engine elasticity eigenvalue autotuning "
        "graph_harvesting",
        "rejected",
        "it changes what is computed, behind the recipe's back",
    ),
    Setting(
        "tensor_parallel expert_parallel use_data_before_expert_parallelism pipeline vocabulary_size "
        "seq_parallel_communication_data_type zero_optimization.zero_hpz_partition_size",
        "rejected",
        "the ranks are data parallel alone",
    ),
    Setting(
        "communication_data_type data_types prescale_gradients gradient_predivide_factor",
        "followed",
        "at ZeRO stages 1 to 3 gradients are rounded otherwise: such runs agree to that rounding, not to "
        "1e-5; at stage 0 rejected, since torch's DistributedDataParallel exchanges them",
        needs_zero=True,
    ),
    Setting(
        "zero_optimization.round_robin_gradients",
        "rejected",
        "DeepSpeed then lays weights out in another order than it says, and a checkpoint would mix them up",
    ),
    Setting(
        "zero_optimization.* zero_allow_untested_optimizer zero_force_ds_cpu_optimizer disable_allgather",
        "followed",
        "buckets, overlap and offload of ZeRO; LARS, LAMB and Muon reject offload of the optimizer; at stage "
        "0 rejected, since nothing is sharded",
        needs_zero=True,
    ),
    Setting(
        "steps_per_print wall_clock_breakdown memory_breakdown dump_state log_level timers comms_logger "
        "flops_profiler tensorboard wandb csv_monitor comet",
        "followed",
        "DeepSpeed's own messages and measurements",
    ),
    Setting(
        "activation_checkpointing aio checkpoint nebula datastates_ckpt dataloader_drop_last "
        "disable_python_gc",
        "no effect",
        "of parts of DeepSpeed that the engine does not use, or of memory",
    ),
)


def own_arguments(argv: Sequence[str]) -> list[str]:
    """The words of a command line without those that a launcher has added."""
    return [word for word in argv if not word.startswith(_LOCAL_RANK)]


def setting_of(name: str, settings: Sequence[Setting]) -> Setting | None:
    """The line of a table that a variable or key belongs to: the first that covers it, None if none does."""
    return next((setting for setting in settings if setting.covers(name)), None)


def check_environment(environment: Mapping[str, str], *, precision: str, device: str) -> None:
    """Raises LaunchError where a variable asks for another arithmetic than the recipe. `precision` is the
    recipe's, `device` what the ranks use: cuda or cpu.
    """
    words = {"{precision}": [precision], "{device}": [device], "{on, on cpu}": ON if device == "cpu" else []}
    for setting in VARIABLES:
        accepted = [word for value in setting.unless for word in words.get(value, [value])]
        for name in filter(environment.__contains__, setting.names.split()):
            value = environment[name].strip().lower()
            if setting.outcome == "rejected" and not any(fnmatchcase(value, good) for good in accepted):
                raise LaunchError(f"{name}={environment[name]} in the environment: {setting.why}")
