from dsdeploy.cli.main import main

main()
