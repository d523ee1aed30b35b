from galmeasure.app.launch import run_app as run_app
