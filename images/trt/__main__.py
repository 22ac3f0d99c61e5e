from images.harness.main import main

main("images.trt.backend")
