"""What a cluster needs: manifests, the image, and the submission of jobs. Start with README.md of this folder."""
