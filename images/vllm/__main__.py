from images.harness.main import main

main("images.vllm.backend")
