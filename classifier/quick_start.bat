@echo off
rem From nothing to a classifier, with pictures, as quick_start.sh does on other systems: draws a
rem dummy set, trains in two stages on ImageNet's weights, classifies the test pictures and exports
rem the network. Accepts every flag of train_defect_model.py but --data_root and --save_dir, which
rem are fixed here; --resume goes on after an interruption, --overwrite begins again.
rem The packages are installed into .venv beside this folder. Where PYTHON names an interpreter,
rem that one is taken with the packages that it has.
setlocal
for %%I in ("%~dp0..") do set "here=%%~fI"
set "data=%here%\dataset\quick_start"
set "run=%here%\checkpoints\quick_start"
set PYTHONUNBUFFERED=1
echo.%*| findstr /c:"--data_root" /c:"--save_dir" >nul && goto fixed

if not "%PYTHON%"=="" goto start
set "PYTHON=%here%\.venv\Scripts\python.exe"
if not exist "%PYTHON%" (
    py -3 -m venv "%here%\.venv" || python -m venv "%here%\.venv" || exit /b 1
)
"%PYTHON%" -m pip install --quiet --disable-pip-version-check -r "%here%\requirements-imagenet.txt" || exit /b 1

:start
echo.%*| findstr /c:"--help" >nul && goto help
if not exist "%data%" (
    "%PYTHON%" "%here%\classifier\prepare_defect_data.py" dummy --output_dir "%data%" --num_defect 240 --num_normal 120 || exit /b 1
)
"%PYTHON%" "%here%\classifier\train_defect_model.py" --data_root "%data%" --save_dir "%run%" --two_stages --backbone efficientnet_lite0 --stage1_epochs 5 --epochs 30 --lr 1e-3 --batch_size 8 %* || exit /b 1
"%PYTHON%" "%here%\classifier\inference_defect_model.py" --checkpoint "%run%" --image_dir "%data%\test" --output_dir "%here%\output\quick_start" || exit /b 1
"%PYTHON%" "%here%\classifier\export_defect_model.py" --checkpoint "%run%" --output_path "%here%\onnx_models\quick_start.onnx" || exit /b 1
exit /b 0

:help
"%PYTHON%" "%here%\classifier\train_defect_model.py" --help
exit /b

:fixed
echo error: found --data_root or --save_dir, expected neither: the data set is %data% 1>&2
exit /b 2
