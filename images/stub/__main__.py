from images.harness.main import main

main("images.stub.backend")
