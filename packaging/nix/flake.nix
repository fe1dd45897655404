{
  description = "Keep OpenCode working when a model is rate limited";

  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-unstable";

  outputs = { self, nixpkgs }:
    let
      systems = [ "x86_64-linux" "aarch64-linux" "x86_64-darwin" "aarch64-darwin" ];
      each = make: nixpkgs.lib.genAttrs systems (system: make nixpkgs.legacyPackages.${system});
    in {
      packages = each (pkgs: {
        default = pkgs.python3Packages.buildPythonApplication {
          pname = "ocwatchd";
          version = "0.1.0";
          pyproject = true;
          src = ../..;
          build-system = [ pkgs.python3Packages.hatchling ];
          dependencies = with pkgs.python3Packages; [ watchdog orjson psutil typer json5 ];
          pythonRelaxDeps = [ "typer" ];
          pythonImportsCheck = [ "ocwatchd" ];
          meta.mainProgram = "ocwatch";
          meta.license = pkgs.lib.licenses.mit;
        };
      });
    };
}
