"""The package's metadata, all of it."""

from pathlib import Path

from setuptools import find_packages, setup

setup(
    name="django-eventstream",
    version="6.0.0.dev0",
    description="Server-Sent Events for Django: reliable push to browsers and apps",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author="django-eventstream contributors",
    license="MIT",
    license_files=["LICENSE"],
    packages=find_packages(include=["django_eventstream", "django_eventstream.*"]),
    package_data={"django_eventstream": ["py.typed", "static/**/*", "templates/**/*"]},
    zip_safe=False,
    python_requires=">=3.10",
    install_requires=[
        "Django>=5.2",
        "channels>=4.2",
        "django-grip>=3.5",
        "gripcontrol>=4.2",
        "pubcontrol>=3.3",
        "PyJWT>=2.4",
        "requests>=2.28",
    ],
    extras_require={
        "daphne": ["daphne>=4.1"],
        "redis": ["redis>=5.0.1"],
        "postgres": ["psycopg>=3.1.12"],
        "drf": ["djangorestframework>=3.15"],
    },
    classifiers=[
        "Development Status :: 4 - Beta",
        "Environment :: Web Environment",
        "Framework :: Django",
        "Framework :: Django :: 5.2",
        "Framework :: Django :: 6.0",
        "Framework :: Django :: 6.1",
        "Intended Audience :: Developers",
        "Operating System :: OS Independent",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3 :: Only",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Internet :: WWW/HTTP",
        "Typing :: Typed",
    ],
)
