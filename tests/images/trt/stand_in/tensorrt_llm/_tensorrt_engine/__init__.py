from tensorrt_llm.llmapi import llm

LLM = llm.TensorrtLLM

__all__ = ["LLM"]
