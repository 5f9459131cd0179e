"""How a line of a server's log begins that no client has written: exactly as the server writes it.

A prompt may go on for lines, and may hold anything: only what nobody would type at the beginning of a line ends it.
"""

import re

_LEVEL = r"(?:TRACE|DEBUG|INFO|WARN|WARNING|ERROR|CRITICAL|FATAL)"
# vLLM and Ray put it before every line that a process of theirs writes, so before further lines of a prompt as well.
_PROCESS = re.compile(r"\(\w{1,60}(?: \w{1,20}){0,3} pid=\d{1,10}(?:, ip=[\w.:]{1,45})?\) ")

# vLLM repeats this before each line of one message: with the moment and the place of the message before, it goes on.
_OF_VLLM = re.compile(rf"{_LEVEL} \d\d-\d\d \d\d:\d\d:\d\d(?P<place> \[?[\w./-]{{1,200}}:\d{{1,6}}\])?(?: |$)")

_OTHERS = re.compile(
    r"\d{1,6}\.\d\d\.\d{3}\.\d{3} [A-Z] |"  # llama.cpp with times: 0.00.123.456 I srv …
    r"(?:srv|que|res) {1,16}[\w():~<>]{1,24}: |"  # llama.cpp pads the name to twelve places
    r"slot {1,16}[\w():~<>]{1,24}: id +-?\d{1,6} \| |"
    r"(?:llama_model_load|llama_model_loader|llama_context|llama_kv_cache|llama_params_fit|llama_init|llama_perf|llama_memory|"
    r"ggml_(?:backend_)?(?:cuda|hip|vulkan|vk|metal|sycl|rpc|cpu|opencl|cann|musa|gallocr|aligned)|ggml_backend|gguf_init|"
    r"mtmd_init|clip_init|clip_model_loader|common_(?:init|params_fit|download|memory_breakdown|fit_params)|"
    r"load_tensors|load_backend|print_info|sched_reserve|graph_reserve|alloc_tensor_range|init_tokenizer)\w{0,60}: |"
    r"system_info: n_threads|build: \d{1,6} \(|"
    r"main: (?:exiting due to |model loaded$|loading model$|server is listening on |starting the main loop|"
    r"binding port |couldn't bind |HTTP server )|"
    r"(?:INFO:     |DEBUG:    |ERROR:    |WARNING:  )(?=\S)|"  # uvicorn, which pads the level
    r"time=\d{4}-\d\d-\d\dT\S{8,30} level=[A-Z]{4,5} source=|"  # Ollama
    r"\[GIN\] \d{4}/\d\d/\d\d - \d\d:\d\d:\d\d \||"
    rf"\d{{4}}-\d\d-\d\d[T ]\d\d:\d\d:\d\d[.,]\d{{3,9}}Z? {{1,3}}{_LEVEL}[ :]|"  # TGI, Tabby
    r"\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(?: (?:DP|TP|PP|EP)\d{1,4}){1,4}\] |"  # SGLang
    rf"\[TensorRT-LLM\]\[{_LEVEL}\] "
)

# How the end of a process is told, without a time. Whoever types such a line tells nothing of himself.
_ERRORS = re.compile(
    r"(?:CUDA|ROCm|HIP|MUSA|SYCL|CANN) error: [\w ,()./:'-]{1,200}$|"
    r" {0,4}current device: -?\d{1,4}, in function \w{1,100} at \S{1,300}:\d{1,6}$|"
    r"\S{1,300}:\d{1,6}: (?:GGML_ASSERT\(.{1,500}\) failed|(?:CUDA|ROCm|HIP|MUSA|SYCL|CANN) error|fatal error)$|"
    r"GGML_ASSERT: .{1,300}$|GGML_ASSERT\(.{1,500}\) failed$|"
    r"Traceback \(most recent call last\):$| {2,8}File \"[^\"]{1,300}\", line \d{1,7}(?:, in [\w<>.]{1,200})?$|"
    r"torch\.(?:\w{1,60}\.){0,3}\w{1,60}Error: |Fatal Python error: |"
    r"terminate called (?:after throwing an instance of '|without an active exception$|recursively$)| {2}what\(\):  |"
    r"(?:Aborted|Segmentation fault|Bus error|Illegal instruction|Killed)(?: \(core dumped\))?$|"
    r"free\(\): |malloc\(\): |munmap_chunk\(\): |double free or corruption|\*\*\* stack smashing detected|"
    r"Memory access fault by GPU |memory allocation of \d{1,20} bytes failed$|level_zero backend failed with error: \d"
)
_EXCEPTION = re.compile(r"(?:[a-z_]\w{0,60}\.){0,8}[A-Z]\w{0,60}(?:Error|Exception|Exit|Interrupt)(?::|$)")
_TRACEBACK = "Traceback (most recent call last):"


def head_of(line: str) -> str:
    """What a server has put before its message; empty where `line` does not begin as a line of a log does."""
    process = _PROCESS.match(line)
    at = 0 if process is None else process.end()
    found = _OF_VLLM.match(line, at) or _OTHERS.match(line, at)
    return "" if found is None else line[: found.end()]


def message_of(line: str) -> str:
    """What a line says behind what stands before many others too."""
    process = _PROCESS.match(line)
    return line[len(head_of(line)) or (0 if process is None else process.end()) :]


def goes_on(head: str, before: str) -> bool:
    """Whether a line with this head is another one of the message that began with the head `before`."""
    found = _OF_VLLM.search(head)
    return head == before and found is not None and found["place"] is not None


def tells_the_end(line: str, *, traced: bool) -> bool:
    """Whether `line`, whatever stands around it, tells how a process ended. `traced`: a traceback is above it."""
    line = message_of(line).rstrip()
    return _ERRORS.match(line) is not None or (traced and _EXCEPTION.match(line) is not None)


def begins_traceback(line: str) -> bool:
    return line.rstrip().endswith(_TRACEBACK)
