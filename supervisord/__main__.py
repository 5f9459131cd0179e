"""`python -m supervisord` is `llm-supervisord`."""

from supervisord.cli.daemon import main

if __name__ == "__main__":
    main()
