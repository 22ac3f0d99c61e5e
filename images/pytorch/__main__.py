from images.harness.main import main

main("images.pytorch.backend")
